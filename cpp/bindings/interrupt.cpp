// SPDX-License-Identifier: Apache-2.0
#include "interrupt.h"

#include <csignal>

namespace melt::python {
namespace {

std::atomic<std::atomic<bool>*> target{nullptr};
struct sigaction previous;

void on_interrupt(int signal) {
  if (std::atomic<bool>* flag = target.load())
    flag->store(true);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
    previous.sa_handler(signal);
}

}  // namespace

InterruptScope::InterruptScope(std::atomic<bool>& flag) {
  std::atomic<bool>* none = nullptr;
  if (!target.compare_exchange_strong(none, &flag))
    return;
  struct sigaction current;
  sigaction(SIGINT, nullptr, &current);
  // A handler of the three-argument form, or an ignored signal, is somebody's decision: leave it alone.
  if ((current.sa_flags & SA_SIGINFO) != 0 || current.sa_handler == SIG_IGN) {
    target.store(nullptr);
    return;
  }
  previous = current;
  struct sigaction ours = current;
  ours.sa_handler = on_interrupt;
  sigaction(SIGINT, &ours, nullptr);
  installed_ = true;
}

InterruptScope::~InterruptScope() {
  if (!installed_)
    return;
  sigaction(SIGINT, &previous, nullptr);
  target.store(nullptr);
}

}  // namespace melt::python
