// SPDX-License-Identifier: Apache-2.0
#include "text.h"

#include <climits>

#include "melt/error.h"
#include "melt/gguf.h"
#include "upstream.h"

namespace melt::llama_cpp {
namespace {

class VocabularyText final : public Text {
 public:
  explicit VocabularyText(Owned<llama_model> model) : Text(model.get()), owned_(std::move(model)) {}

 private:
  Owned<llama_model> owned_;
};

}  // namespace

std::unique_ptr<TextCodec> load_vocabulary(const std::string& path) {
  initialise();
  read_gguf(path);  // refuses what llama.cpp would abort on
  SetupGuard guard;
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  Owned<llama_model> model(llama_model_load_from_file(path.c_str(), params));
  if (!model)
    throw guard.failure(ErrorKind::kModel, "llama.cpp cannot load the vocabulary of " + path);
  return std::make_unique<VocabularyText>(std::move(model));
}

std::vector<std::int32_t> Text::encode(std::string_view text, bool add_special, bool parse_special) const {
  if (text.size() > INT_MAX / 2)
    throw Error(ErrorKind::kInvalidArgument, "the text is longer than 1 GiB");
  if (!has_vocabulary())
    throw Error(ErrorKind::kModel, "this model has no vocabulary: give the prompt as token ids");
  const SetupGuard guard;
  std::vector<std::int32_t> ids(text.size() + 16);
  const auto encode_into = [&] {
    return llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()), ids.data(),
                          static_cast<std::int32_t>(ids.size()), add_special, parse_special);
  };
  std::int32_t n = encode_into();
  if (n < 0) {  // -n is the room it needs
    ids.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(n)));
    n = encode_into();
  }
  if (n < 0)
    throw Error(ErrorKind::kRuntime, "llama.cpp could not tokenise the text");
  ids.resize(static_cast<std::size_t>(n));
  return ids;
}

std::string Text::decode(const std::vector<std::int32_t>& ids) const {
  const std::int32_t n_vocab = llama_vocab_n_tokens(vocab_);
  std::string text;
  if (!has_vocabulary())
    return text;
  const SetupGuard guard;
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= n_vocab) {
      throw Error(ErrorKind::kInvalidArgument, "token id " + std::to_string(id) + " is outside the vocabulary");
    }
    char piece[256];
    std::int32_t n = llama_token_to_piece(vocab_, id, piece, sizeof piece, 0, true);
    if (n >= 0) {
      text.append(piece, static_cast<std::size_t>(n));
    } else {
      std::string longer(static_cast<std::size_t>(-n), '\0');
      n = llama_token_to_piece(vocab_, id, longer.data(), -n, 0, true);
      if (n > 0)
        text += longer;
    }
  }
  return text;
}

std::string Text::format_chat(const std::vector<ChatMessage>& messages) const {
  const SetupGuard guard;
  const char* chat_template = llama_model_chat_template(model_, nullptr);
  if (chat_template == nullptr) {
    throw Error(ErrorKind::kModel, "this model has no chat template: give the prompt as plain text");
  }
  std::vector<llama_chat_message> chat;
  std::size_t size = 256;
  for (const ChatMessage& message : messages) {
    chat.push_back({message.role.c_str(), message.content.c_str()});
    size += 2 * (message.role.size() + message.content.size()) + 64;
  }
  std::string text(size, '\0');
  const auto apply = [&] {
    return llama_chat_apply_template(chat_template, chat.data(), chat.size(), true, text.data(),
                                     static_cast<std::int32_t>(text.size()));
  };
  std::int32_t n = apply();
  if (n > static_cast<std::int32_t>(text.size())) {
    text.resize(static_cast<std::size_t>(n));
    n = apply();
  }
  if (n < 0) {
    throw Error(ErrorKind::kModel,
                "llama.cpp does not know this model's chat template: format the prompt yourself and give it as text");
  }
  text.resize(static_cast<std::size_t>(n));
  return text;
}

}  // namespace melt::llama_cpp
