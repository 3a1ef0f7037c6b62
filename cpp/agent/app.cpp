// SPDX-License-Identifier: Apache-2.0
// melt/agent.h: the agent as a function of an app.
#include <atomic>
#include <exception>
#include <string>

#include "mailbox.h"
#include "melt/agent.h"
#include "melt/cpu_features.h"

namespace {

std::atomic<bool> stop{false};

}  // namespace

const char* melt_agent_serve(const char* work_dir) {
  thread_local std::string reason;
  try {
    reason = melt::missing_cpu_features_message();
    if (work_dir == nullptr)
      reason = "melt_agent_serve: the work directory is NULL";
    if (!reason.empty())
      return reason.c_str();
    stop.store(false);
    const melt::agent::WorkDir work(work_dir);
    melt::agent::Server server(work, melt::agent::Hosting::kThreads);
    melt::agent::serve_mailbox(work, server, stop);
    return nullptr;
  } catch (const std::exception& error) {
    reason = error.what();
    return reason.c_str();
  }
}

void melt_agent_stop(void) {
  stop.store(true);
}
