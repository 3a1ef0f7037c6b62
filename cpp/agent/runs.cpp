// SPDX-License-Identifier: Apache-2.0
#include "runs.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>

#include "device.h"
#include "json.h"
#include "json_value.h"
#include "measure.h"
#include "melt/error.h"
#include "melt/request.h"
#include "process.h"
#include "protocol.h"
#include "run_status.h"
#include "text_list.h"

namespace melt::agent {
namespace {

constexpr const char* kDeviceLock = ".run.lock";
constexpr std::size_t kMaxOutcomeBytes = std::size_t{1} << 20;
/// Given back when a run ends, so that its last status finds room on a full disk.
constexpr std::size_t kReserveBytes = std::size_t{1} << 16;

constexpr unsigned kPollUs = 5000;

void check_run_name(const std::string& run) {
  static constexpr const char* kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (run.empty() || run.size() > 64 || run[0] == '.' || run[0] == '-' ||
      run.find_first_not_of(kAllowed) != std::string::npos)
    throw Error(ErrorKind::kInvalidArgument, "run name " + json_string(run.substr(0, 100)) +
                                                 ": give 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with . or -");
}

std::string lock_path(const std::string& run) {
  return run_path(run) + "/lock";
}

std::string reserve_path(const std::string& run) {
  return run_path(run) + "/.reserve";
}

/// The last line of what the runtime printed, for the message of a death.
std::string last_log_line(const WorkDir& work, const std::string& run) {
  try {
    const File log = work.open(run_path(run) + "/log.txt", O_RDONLY);
    char buffer[2048];
    const ::off_t size = ::lseek(log.get(), 0, SEEK_END);
    const ::off_t begin = std::max<::off_t>(0, size - static_cast<::off_t>(sizeof buffer));
    const ::ssize_t n = ::pread(log.get(), buffer, sizeof buffer, begin);
    std::string text(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
    text.erase(text.find_last_not_of(" \n\r\t") + 1);
    const std::size_t line = text.find_last_of('\n');
    return line == std::string::npos ? text : text.substr(line + 1);
  } catch (const Error&) {
    return "";
  }
}

std::string death_json(const WorkDir& work, const std::string& run, const ::siginfo_t& info) {
  std::string message = "the measuring process ended by " + how_it_ended(info.si_code, info.si_status);
  const std::string line = last_log_line(work, run);
  if (!line.empty())
    message += ": " + line;
  const int signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
  return JsonObject().add("state", "failed").add_raw("error", error_json("RuntimeFailedError", message, signal)).str();
}

std::string with_peak(const std::string& outcome, const rusage& usage) {
#if defined(__APPLE__)
  constexpr std::int64_t kUnit = 1;
#else
  constexpr std::int64_t kUnit = 1024;
#endif
  if (usage.ru_maxrss <= 0)
    return outcome;
  const std::string peak = std::to_string(static_cast<std::int64_t>(usage.ru_maxrss) * kUnit);
  return outcome.substr(0, outcome.size() - 1) + ", \"peak_rss_bytes\": " + peak + "}";
}

/// The measuring process. If its keeper is gone, it writes the last status itself.
[[noreturn]] void measure_and_report(const WorkDir& work, const ProfileRequest& request, const RunStatus& status,
                                     int pid_pipe, Pipe& outcome_pipe) {
  outcome_pipe.read_end.close();
  const std::string outcome = measure(work, request, status, [&] {
    write_text(pid_pipe, std::to_string(::getpid()));
    ::close(pid_pipe);
  });
  if (!write_text(outcome_pipe.write_end.get(), outcome)) {
    work.remove(reserve_path(status.run));
    write_last(work, status.run, with_trace(work, status.run, outcome));
  }
  _exit(0);
}

/// The keeper: starts the measuring process, waits for it, writes how it ended.
void keep(const WorkDir& work, const ProfileRequest& request, const RunStatus& status, int pid_pipe) {
  Pipe outcome_pipe;
  const ::pid_t pid = ::fork();
  if (pid == 0)
    measure_and_report(work, request, status, pid_pipe, outcome_pipe);
  ::close(pid_pipe);
  if (pid < 0) {
    const std::string error = error_json("RuntimeFailedError", "the system starts no more processes");
    write_last(work, status.run, R"({"state": "failed", "error": )" + error + "}");
    return;
  }
  outcome_pipe.write_end.close();
  std::string outcome = read_to_end(outcome_pipe.read_end.get(), kMaxOutcomeBytes);
  ::siginfo_t info{};
  // Not reaped yet, so that its id cannot become another process's while `cancel` may still send to it.
  while (waitid(P_PID, static_cast<::id_t>(pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  if (info.si_code != CLD_EXITED || info.si_status != 0 || outcome.empty())
    outcome = death_json(work, status.run, info);
  work.remove(reserve_path(status.run));
  outcome = with_trace(work, status.run, outcome);
  rusage usage{};
  int ended = 0;
  ::wait4(pid, &ended, 0, &usage);
  write_last(work, status.run, with_peak(outcome, usage));
}

/// What the thread of a run owns.
struct ThreadedRun {
  WorkDir work;  // its own: the server may end before it
  ProfileRequest request;
  RunStatus status;
  File device_lock, run_lock;

  void execute() noexcept {
    try {
      const std::string outcome = measure(work, request, status, [] {}, Hosting::kThreads);
      work.remove(reserve_path(status.run));
      write_last(work, status.run, with_trace(work, status.run, outcome));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "melt-agent: the end of run %s was not written: %s\n", status.run.c_str(), error.what());
    }
  }
};

/// A runtime's own threads may have less, the one that loads and runs needs it.
constexpr std::size_t kStackBytes = std::size_t{8} << 20;

void start_thread(std::unique_ptr<ThreadedRun> run) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const auto body = [](void* argument) -> void* {
    std::unique_ptr<ThreadedRun>(static_cast<ThreadedRun*>(argument))->execute();
    return nullptr;
  };
  const int failed = pthread_create(&thread, &attributes, body, run.get());
  pthread_attr_destroy(&attributes);
  if (failed != 0)
    throw Error(ErrorKind::kRuntime, "the system starts no more threads");
  run.release();  // the thread's now
}

/// The status of a run that has no process. A loss of power may leave the file without its content, on file systems
/// that keep the new name of a file and not what was in it: the run was going on then, in an earlier start of the
/// system.
JsonValue status_of_dead(const WorkDir& work, const std::string& run) {
  const std::string text = work.read(status_path(run), kMaxStatusBytes);
  try {
    return parse_json(text);
  } catch (const Error&) {
    return parse_json(JsonObject().add("run", run).add("state", "running").str());
  }
}

RunStatus first_status(const std::string& run, const std::string& host) {
  RunStatus status;
  status.run = run;
  status.host = host;
  status.boot_id = boot_id();
  status.started_ns = steady_ns();
  status.started_wall_ns = wall_ns();
  return status;
}

}  // namespace

int Runs::start(const std::string& run, const std::string& request_json, const std::string& host) const {
  check_run_name(run);
  ProfileRequest request = parse_request(request_json);
  if (request.runtime != "synthetic")
    request.model.path = work_.absolute(request.model.path);
  for (std::string* path : {&request.model.runtime_path, &request.model.model_lib}) {
    if (!path->empty() && path->front() != '/')  // a library of the system is named by its place
      *path = work_.absolute(*path);
  }
  File device_lock = take_device();
  if (work_.exists(run_path(run)))
    throw Error(ErrorKind::kInvalidArgument, "there is a run " + json_string(run) + " already: choose another name");
  work_.make_directory("runs");
  work_.make_directory(run_path(run));
  File run_lock = work_.open(lock_path(run), O_RDWR | O_CREAT);
  ::flock(run_lock.get(), LOCK_EX);
  work_.replace(run_path(run) + "/request.json", request_json);
  work_.replace(reserve_path(run), std::string(kReserveBytes, '\0'));
  RunStatus status = first_status(run, host);
  // Lasting: after a loss of power the run is known, and its host is told that it is lost.
  work_.replace(status_path(run), status.json(), true);
  if (hosting_ == Hosting::kThreads) {
    cancel_measuring(false);  // before anybody can know of this run
    start_thread(std::make_unique<ThreadedRun>(ThreadedRun{WorkDir(work_.path()), std::move(request), std::move(status),
                                                           std::move(device_lock), std::move(run_lock)}));
    return ::getpid();
  }
  const File log = work_.open(run_path(run) + "/log.txt", O_WRONLY | O_CREAT | O_APPEND);

  Pipe pid_pipe;
  const std::vector<int> kept = {device_lock.get(), run_lock.get(), pid_pipe.write_end.get(), work_.descriptor()};
  detach(log, kept, [&] { keep(work_, request, status, pid_pipe.write_end.get()); });
  pid_pipe.write_end.close();
  const std::string pid = read_to_end(pid_pipe.read_end.get(), 32);
  if (pid.empty())
    throw Error(ErrorKind::kRuntime, "the measuring process could not be started: too many processes, or no memory");
  return std::stoi(pid);
}

File Runs::take_device() const {
  File lock = work_.open(kDeviceLock, O_RDWR | O_CREAT);
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    const std::string run = running();
    if (!run.empty() && !is_ending(run))
      throw DeviceBusy("run " + json_string(run) + " is under way: wait for it or cancel it", run);
    ::usleep(kPollUs);
  }
  return lock;
}

bool Runs::is_ending(const std::string& run) const {
  try {
    const std::string state = RunStatus::read(work_, run).state;
    return state != "queued" && state != "running";
  } catch (const Error&) {  // another host deletes it, or it is being made
    return false;
  }
}

bool Runs::alive(const std::string& run) const {
  if (!work_.exists(lock_path(run)))
    return false;
  const File lock = work_.open(lock_path(run), O_RDWR);
  return ::flock(lock.get(), LOCK_SH | LOCK_NB) != 0;
}

std::string Runs::running() const {
  for (const std::string& run : work_.names("runs")) {
    if (alive(run))
      return run;
  }
  return "";
}

std::string Runs::status_json(const std::string& run) const {
  check_run_name(run);
  if (!work_.exists(run_path(run)))
    throw Error(ErrorKind::kInvalidArgument, "there is no run " + json_string(run));
  const bool is_alive = alive(run);  // before the status is read: a run that ends in between has written its last one
  const JsonValue members = is_alive ? read_status(work_, run) : status_of_dead(work_, run);
  const RunStatus last = RunStatus::from(run, members);
  JsonObject answer;
  const bool lost = !is_alive && (last.state == "queued" || last.state == "running");
  for (std::size_t i = 0; i < members.keys().size(); ++i) {
    const std::string& key = members.keys()[i];
    if ((lost && key == "state") || key == "trace_bytes")
      continue;
    answer.add_raw(key.c_str(), members.values()[i].str());
  }
  if (lost) {
    const bool restarted = last.boot_id != boot_id();
    answer.add("state", "lost")
        .add_raw("error", error_json("RuntimeFailedError",
                                     restarted ? "the device was restarted during the run"
                                               : "all processes of the run were ended from outside, as the system "
                                                 "does when memory is short"));
  }
  std::uint64_t trace_bytes = 0;
  if (work_.exists(trace_path(run))) {
    const File trace = work_.open(trace_path(run), O_RDONLY | O_NONBLOCK);
    struct stat status{};
    if (::fstat(trace.get(), &status) == 0)
      trace_bytes = static_cast<std::uint64_t>(status.st_size);
  }
  return answer.add("trace_bytes", trace_bytes).str();
}

std::string Runs::list_json() const {
  std::string body;
  for (const std::string& run : work_.names("runs")) {
    JsonObject entry;
    entry.add("run", run);
    try {
      const JsonValue status = parse_json(status_json(run));
      for (const char* key : {"state", "trace_bytes"}) {
        if (const JsonValue* value = status.find(key))
          entry.add_raw(key, value->str());
      }
    } catch (const Error& error) {
      entry.add("state", "lost").add_raw("error", error_json(error_class_name(error.kind()), error.what()));
    }
    if (body.size() > kMaxLineBytes / 2)
      break;
    append_item(body, entry.str());
  }
  return "[" + body + "]";
}

bool Runs::cancel(const std::string& run, bool force) const {
  const JsonValue status = parse_json(status_json(run));
  const std::string state = status.find("state")->as_string("state");
  const JsonValue* pid = status.find("pid");
  if ((state != "queued" && state != "running") || pid == nullptr)
    return false;
  if (hosting_ == Hosting::kThreads) {
    if (force)
      throw Error(ErrorKind::kInvalidArgument, "an app's run cannot be killed alone: end the app");
    cancel_measuring(true);
    return true;
  }
  const auto id = static_cast<::pid_t>(pid->as_integer("pid", 0, INT32_MAX));
  return id > 1 && ::kill(id, force ? SIGKILL : SIGINT) == 0;
}

bool Runs::remove(const std::string& run) const {
  check_run_name(run);
  while (alive(run)) {
    if (!is_ending(run))
      throw Error(ErrorKind::kBusy, "run " + json_string(run) + " is going on: cancel it or wait for it");
    ::usleep(kPollUs);
  }
  return work_.remove_directory(run_path(run));
}

}  // namespace melt::agent
