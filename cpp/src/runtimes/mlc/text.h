// SPDX-License-Identifier: Apache-2.0
// Text for MLC: what is known of it without a tokenizer, and the tokenizer that the host may have brought.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "melt/runtime.h"
#include "model_folder.h"

namespace melt::mlc {

class Text final : public TextCodec {
 public:
  /// `tokenizer` may be null: then ids can be passed in, and come out.
  Text(const ModelFolder& folder, std::shared_ptr<const TextCodec> tokenizer)
      : vocab_size_(folder.vocab_size), stop_ids_(folder.stop_ids), tokenizer_(std::move(tokenizer)) {}

  std::vector<std::int32_t> encode(std::string_view text, bool add_special, bool parse_special) const override;
  /// Empty without a tokenizer.
  std::string decode(const std::vector<std::int32_t>& ids) const override;
  std::string format_chat(const std::vector<ChatMessage>& messages) const override;
  /// Answered here, in a run: a tokenizer in Python would wait for its lock.
  bool is_end_of_text(std::int32_t id) const override;

 private:
  std::uint32_t vocab_size_;
  std::vector<std::int32_t> stop_ids_;
  std::shared_ptr<const TextCodec> tokenizer_;
};

}  // namespace melt::mlc
