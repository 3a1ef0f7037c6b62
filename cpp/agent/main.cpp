// SPDX-License-Identifier: Apache-2.0
// melt-agent: the measured procedure on a device, driven by a host over standard input and output.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

#include "device.h"
#include "json.h"
#include "mailbox.h"
#include "melt/cpu_features.h"
#include "melt/error.h"
#include "process.h"
#include "server.h"
#include "text_list.h"

namespace {

constexpr int kBadUse = 2;

constexpr const char* kHelp =
    "melt-agent --work DIR    answers requests, one JSON object a line, until standard input ends\n"
    "melt-agent --work DIR --mailbox    answers requests that are files in DIR/mailbox, and runs in its own process,\n"
    "                                   as an app does\n"
    "melt-agent --version     prints what this build and this machine are, as JSON\n"
    "The protocol: docs/agent_protocol.md of melt_core.\n";

int bad_use(const std::string& message) {
  std::fprintf(stderr, "melt-agent: %s; try melt-agent --help\n", message.c_str());
  return kBadUse;
}

/// A line for the host if this build cannot run on this CPU; empty if it can.
std::string unfit_line() {
  const std::string message = melt::missing_cpu_features_message();
  if (message.empty())
    return "";
  std::string names;
  for (const std::string& name : melt::missing_cpu_features())
    melt::append_item(names, melt::json_string(name));
  melt::JsonObject error;
  error.add("kind", "RuntimeFailedError")
      .add("message", message)
      .add("transient", false)
      .add_raw("missing_features", "[" + names + "]");
  return melt::JsonObject().add_raw("id", "null").add("ok", false).add_raw("error", error.str()).str() + "\n";
}

int serve(const std::string& path) {
  // Whatever a runtime prints must not get between the answers.
  const int answers = ::fcntl(1, F_DUPFD_CLOEXEC, 3);
  ::dup2(2, 1);
  std::signal(SIGPIPE, SIG_IGN);
  const melt::agent::WorkDir work(path);
  melt::agent::Server(work).serve(0, answers);
  return 0;
}

int serve_files(const std::string& path) {
  static const std::atomic<bool> never{false};
  const melt::agent::WorkDir work(path);
  melt::agent::Server server(work, melt::agent::Hosting::kThreads);
  melt::agent::serve_mailbox(work, server, never);
  return 0;
}

int run(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  const bool version = argc == 2 && std::strcmp(argv[1], "--version") == 0;
  const bool mailbox = argc == 4 && std::strcmp(argv[3], "--mailbox") == 0;
  if (!version && ((argc != 3 && !mailbox) || std::strcmp(argv[1], "--work") != 0))
    return bad_use(argc < 2 ? "no work directory given" : "unknown or missing argument");
  const std::string unfit = unfit_line();
  if (!unfit.empty()) {
    melt::agent::write_text(1, unfit);
    return 1;
  }
  if (version)
    return melt::agent::write_text(1, melt::agent::describe_json() + "\n") ? 0 : 1;
  return mailbox ? serve_files(argv[2]) : serve(argv[2]);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "melt-agent: %s\n", error.what());
    return 1;
  }
}
