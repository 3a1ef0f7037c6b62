// SPDX-License-Identifier: Apache-2.0
// TVM's pool of threads, which belongs to the thread that calls.
#pragma once

#include <cstdint>

namespace melt::mlc {

/// Lets TVM compute with `n_threads` threads when called from this thread, on whichever CPUs the process may use: left
/// alone, TVM pins its threads, and its caller with them.
/// Raises: Error(kInvalidArgument) if its pool, once made, has fewer.
void configure_threads(std::uint32_t n_threads);

}  // namespace melt::mlc
