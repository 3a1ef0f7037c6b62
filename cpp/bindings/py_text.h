// SPDX-License-Identifier: Apache-2.0
// A tokenizer written in Python, as the core sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "melt/runtime.h"

namespace melt::python {

/// `tokenizer` has encode(text, add_special, parse_special) -> [int], decode([int]) -> bytes and
/// format_chat([(role, content)]) -> str. Call with the GIL held; what is made takes the GIL itself. None gives null.
std::shared_ptr<const TextCodec> python_text(const pybind11::object& tokenizer);

}  // namespace melt::python
