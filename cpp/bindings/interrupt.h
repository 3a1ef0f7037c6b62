// SPDX-License-Identifier: Apache-2.0
// Ctrl-C during a run: Python's own handler only sets a flag that nobody reads while the core computes.
#pragma once

#include <atomic>

namespace melt::python {

/// While one lives, SIGINT sets the flag, and those of all others that live, and then does what it did before. Beyond
/// 16 at a time this does nothing.
class InterruptScope {
 public:
  explicit InterruptScope(std::atomic<bool>& flag);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  std::atomic<std::atomic<bool>*>* place_ = nullptr;
};

}  // namespace melt::python
