// SPDX-License-Identifier: Apache-2.0
// What a model file says of itself, as the answer to `inspect`.
#pragma once

#include <cstddef>
#include <string>

namespace melt::agent {

/// An object of at most about `max_bytes`; "truncated" says whether tensors or long values were left out.
/// Raises: what read_gguf raises.
std::string inspect_json(const std::string& path, std::size_t max_bytes);

}  // namespace melt::agent
