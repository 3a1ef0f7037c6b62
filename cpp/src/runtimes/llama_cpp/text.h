// SPDX-License-Identifier: Apache-2.0
// Tokeniser and chat template of a llama.cpp model.
#pragma once

#include <memory>

#include "llama.h"
#include "melt/runtime.h"

namespace melt::llama_cpp {

class Text : public TextCodec {
 public:
  explicit Text(const llama_model* model) : model_(model), vocab_(llama_model_get_vocab(model)) {}

  std::vector<std::int32_t> encode(std::string_view text, bool add_special, bool parse_special) const override;
  std::string decode(const std::vector<std::int32_t>& ids) const override;
  std::string format_chat(const std::vector<ChatMessage>& messages) const override;
  bool is_end_of_text(std::int32_t id) const override { return llama_vocab_is_eog(vocab_, id); }

 private:
  bool has_vocabulary() const { return llama_vocab_type(vocab_) != LLAMA_VOCAB_TYPE_NONE; }

  const llama_model* model_;
  const llama_vocab* vocab_;
};

/// The vocabulary of a model file, without its weights; it may be a file that has none. Raises: Error(kModel).
std::unique_ptr<TextCodec> load_vocabulary(const std::string& path);

}  // namespace melt::llama_cpp
