// SPDX-License-Identifier: Apache-2.0
#include "interrupt.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <mutex>

namespace melt::python {
namespace {

std::array<std::atomic<std::atomic<bool>*>, 16> targets{};  // the handler may read nothing else
std::mutex changing;                                        // what follows
int n_targets = 0;
struct sigaction previous;

void on_interrupt(int signal) {
  for (const auto& target : targets) {
    if (std::atomic<bool>* flag = target.load())
      flag->store(true);
  }
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
    previous.sa_handler(signal);
}

/// A handler of the three-argument form, or an ignored signal, is somebody's decision: it is left alone.
bool take_over() {
  struct sigaction current;
  sigaction(SIGINT, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) != 0 || current.sa_handler == SIG_IGN)
    return false;
  previous = current;
  struct sigaction ours = current;
  ours.sa_handler = on_interrupt;
  return sigaction(SIGINT, &ours, nullptr) == 0;
}

}  // namespace

InterruptScope::InterruptScope(std::atomic<bool>& flag) {
  const std::lock_guard<std::mutex> guard(changing);
  const auto place = std::find_if(targets.begin(), targets.end(), [](const auto& target) { return !target.load(); });
  if (place == targets.end() || (n_targets == 0 && !take_over()))
    return;
  ++n_targets;
  place->store(&flag);
  place_ = &*place;
}

InterruptScope::~InterruptScope() {
  if (place_ == nullptr)
    return;
  const std::lock_guard<std::mutex> guard(changing);
  place_->store(nullptr);
  if (--n_targets == 0)
    sigaction(SIGINT, &previous, nullptr);
}

}  // namespace melt::python
