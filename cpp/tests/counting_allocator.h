// SPDX-License-Identifier: Apache-2.0
// Counts what this thread allocates with operator new (counting_allocator.cpp replaces it in the test program).
#pragma once

#include <cstddef>

namespace melt {

struct Allocated {
  std::size_t count = 0;
  std::size_t bytes = 0;  ///< asked for; never reduced, so a bound on it bounds the peak too
};

/// Since the thread began.
Allocated allocated() noexcept;

}  // namespace melt
