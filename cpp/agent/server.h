// SPDX-License-Identifier: Apache-2.0
// The request loop: one line in, one line out (docs/agent_protocol.md).
#pragma once

#include <string>

#include "json_value.h"
#include "lease.h"
#include "runs.h"
#include "work_dir.h"

namespace melt::agent {

class Server {
 public:
  explicit Server(const WorkDir& work, Hosting hosting = Hosting::kProcesses)
      : work_(work), leases_(work), runs_(work, hosting), hosting_(hosting) {}

  /// Answers lines of `input` on `output` until its end, or until nobody reads the answers.
  void serve(int input, int output);

  /// The answer to one line, without its end.
  std::string answer(const std::string& line);

 private:
  struct Op;
  static const Op kOps[];
  using Request = JsonValue;

  /// Members of a good answer, as an object.
  std::string execute(const Request& request);
  std::string host_of(const Request& request) const;
  /// What `describe` returns, in a child process where there can be one.
  std::string apart(std::string (*describe)()) const;

  std::string hello(const Request& request);
  std::string clock(const Request& request);
  std::string lease(const Request& request);
  std::string release(const Request& request);
  std::string start(const Request& request);
  std::string status(const Request& request);
  std::string list_runs(const Request& request);
  std::string cancel(const Request& request);
  std::string delete_run(const Request& request);
  std::string files(const Request& request);
  std::string hash(const Request& request);
  std::string remove(const Request& request);
  std::string inspect(const Request& request);
  std::string sensors(const Request& request);

  const WorkDir& work_;
  Leases leases_;
  Runs runs_;
  Hosting hosting_;
  std::string host_;  // as hello named it
};

}  // namespace melt::agent
