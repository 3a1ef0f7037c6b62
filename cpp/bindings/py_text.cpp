// SPDX-License-Identifier: Apache-2.0
#include "py_text.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace melt::python {
namespace {

class PythonText final : public TextCodec {
 public:
  explicit PythonText(py::object tokenizer) : tokenizer_(std::move(tokenizer)) {}
  ~PythonText() override {
    const py::gil_scoped_acquire acquire;
    tokenizer_ = py::object();
  }
  PythonText(const PythonText&) = delete;
  PythonText& operator=(const PythonText&) = delete;

  std::vector<std::int32_t> encode(std::string_view text, bool add_special, bool parse_special) const override {
    const py::gil_scoped_acquire acquire;
    return tokenizer_.attr("encode")(py::str(text.data(), text.size()), add_special, parse_special)
        .cast<std::vector<std::int32_t>>();
  }

  std::string decode(const std::vector<std::int32_t>& ids) const override {
    const py::gil_scoped_acquire acquire;
    return tokenizer_.attr("decode")(ids).cast<std::string>();
  }

  std::string format_chat(const std::vector<ChatMessage>& messages) const override {
    const py::gil_scoped_acquire acquire;
    std::vector<std::pair<std::string, std::string>> pairs;
    for (const ChatMessage& message : messages)
      pairs.emplace_back(message.role, message.content);
    return tokenizer_.attr("format_chat")(pairs).cast<std::string>();
  }

  /// Which ids end a text is the runtime's to know.
  bool is_end_of_text(std::int32_t) const override { return false; }

 private:
  py::object tokenizer_;
};

}  // namespace

std::shared_ptr<const TextCodec> python_text(const py::object& tokenizer) {
  return tokenizer.is_none() ? nullptr : std::make_shared<const PythonText>(tokenizer);
}

}  // namespace melt::python
