// SPDX-License-Identifier: Apache-2.0
// Ctrl-C during a run: Python's own handler only sets a flag that nobody reads while the core computes.
#pragma once

#include <atomic>

namespace melt::python {

/// While one lives, SIGINT sets the flag, and then does what it did before. Only one thread of the process takes over
/// the signal at a time; for the others this does nothing.
class InterruptScope {
 public:
  explicit InterruptScope(std::atomic<bool>& flag);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  bool installed_ = false;
};

}  // namespace melt::python
