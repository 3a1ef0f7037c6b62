// SPDX-License-Identifier: Apache-2.0
// Runs: started as processes of their own, looked up in the work directory.
//
//   request loop --fork--> (gone) --fork--> keeper --fork--> measuring process
//   one per connection                      waits, writes the last status, also after a kill
//
// Keeper and measuring process hold a lock on runs/RUN/lock: whoever can take it knows that both are gone.
// In an app, which may start no processes, a thread takes their place; the lock then ends with the app.
#pragma once

#include <string>

#include "lease.h"
#include "work_dir.h"

namespace melt::agent {

/// Where a run is executed.
enum class Hosting { kProcesses, kThreads };

class Runs {
 public:
  explicit Runs(const WorkDir& work, Hosting hosting = Hosting::kProcesses) : work_(work), hosting_(hosting) {}

  /// Returns the measuring process's id. `request_json`: the request as it came.
  /// Raises: Error(kInvalidArgument); DeviceBusy; Error(kIo).
  int start(const std::string& run, const std::string& request_json, const std::string& host) const;
  /// The answer to `status`, an object. Raises: Error(kInvalidArgument) if there is no such run.
  std::string status_json(const std::string& run) const;
  /// An array.
  std::string list_json() const;
  /// Returns whether the run was still going on.
  bool cancel(const std::string& run, bool force) const;
  /// Returns whether it was there. Raises: Error(kBusy) if it is going on.
  bool remove(const std::string& run) const;

 private:
  bool alive(const std::string& run) const;
  std::string running() const;
  /// Whether its last status is written: its processes are about to be gone.
  bool is_ending(const std::string& run) const;
  /// The lock that keeps a second run from starting. Raises: DeviceBusy.
  File take_device() const;

  const WorkDir& work_;
  Hosting hosting_;
};

}  // namespace melt::agent
