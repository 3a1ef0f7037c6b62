// SPDX-License-Identifier: Apache-2.0
// A loaded model as Python holds it: with the flag that Ctrl-C and cancel() set.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "interrupt.h"
#include "melt/error.h"
#include "melt/run.h"

namespace melt::python {

struct PySession {
  std::atomic<bool> cancel{false};
  std::atomic<int> n_runs{0};  // under way or waiting to be refused
  std::atomic<std::thread::id> runner{};
  std::unique_ptr<LoadedModel> model;

  /// Raises: Error(kInvalidArgument) after close().
  LoadedModel& loaded() {
    model->use([](Session&) {});
    return *model;
  }

  /// Raises: Error(kBusy) in a callback of a run of this model, which would wait for itself.
  void refuse_within_run(const std::string& what) const {
    if (runner.load() == std::this_thread::get_id())
      throw Error(ErrorKind::kBusy,
                  "this model is already running: " + what + " within a run of this model waits for itself");
  }
};

/// A run of a session, from before it takes the model. The first one forgets a cancel that came too late for the last.
class RunScope {
 public:
  explicit RunScope(PySession& session) : session_(session) {
    session_.refuse_within_run("a run");
    is_first_ = session_.n_runs.fetch_add(1) == 0;
    if (is_first_) {
      session_.cancel.store(false);
      session_.runner.store(std::this_thread::get_id());
    }
    interrupt_ = std::make_unique<InterruptScope>(session_.cancel);
  }
  ~RunScope() {
    if (is_first_)
      session_.runner.store({});
    session_.n_runs.fetch_sub(1);
  }
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;

 private:
  PySession& session_;
  bool is_first_ = false;
  std::unique_ptr<InterruptScope> interrupt_;
};

}  // namespace melt::python
