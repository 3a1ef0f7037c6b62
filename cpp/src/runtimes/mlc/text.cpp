// SPDX-License-Identifier: Apache-2.0
#include "text.h"

#include <algorithm>

#include "melt/error.h"

namespace melt::mlc {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorKind::kInvalidArgument,
              "the MLC runtime has no tokenizer here: give the prompt as token ids, made where there is one");
}

}  // namespace

std::vector<std::int32_t> Text::encode(std::string_view text, bool add_special, bool parse_special) const {
  if (!tokenizer_)
    refuse();
  return tokenizer_->encode(text, add_special, parse_special);
}

std::string Text::decode(const std::vector<std::int32_t>& ids) const {
  for (const std::int32_t id : ids) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= vocab_size_)
      throw Error(ErrorKind::kInvalidArgument, "token id " + std::to_string(id) + " is outside the vocabulary");
  }
  return tokenizer_ ? tokenizer_->decode(ids) : std::string();
}

std::string Text::format_chat(const std::vector<ChatMessage>& messages) const {
  if (!tokenizer_)
    refuse();
  return tokenizer_->format_chat(messages);
}

bool Text::is_end_of_text(std::int32_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

}  // namespace melt::mlc
