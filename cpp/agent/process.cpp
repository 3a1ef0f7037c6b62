// SPDX-License-Identifier: Apache-2.0
#include "process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>

#include "melt/error.h"

namespace melt::agent {
namespace {

constexpr std::size_t kMaxAnswerBytes = std::size_t{1} << 18;
constexpr int kMaxInheritedFiles = 256;

[[noreturn]] void fail(const char* action) {
  throw Error(ErrorKind::kIo, std::string("cannot ") + action + ": " + std::system_category().message(errno));
}

void wait_for(::pid_t pid, ::siginfo_t& info) {
  info = {};
  while (waitid(P_PID, static_cast<::id_t>(pid), &info, WEXITED) != 0 && errno == EINTR) {
  }
}

/// In the child: does the work, never returns.
[[noreturn]] void answer(int file, const std::function<std::string()>& work) {
  std::string text;
  try {
    text = "+" + work();
  } catch (const std::exception& error) {
    text = std::string("-") + error.what();
  }
  write_text(file, text);
  _exit(0);
}

}  // namespace

Pipe::Pipe() {
  int ends[2];
  if (::pipe(ends) != 0)
    fail("make a pipe");
  read_end = File(ends[0]);
  write_end = File(ends[1]);
  ::fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  ::fcntl(ends[1], F_SETFD, FD_CLOEXEC);
}

std::string read_to_end(int file, std::size_t max_bytes) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ::ssize_t n = ::read(file, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return text;
    text.append(buffer, std::min(static_cast<std::size_t>(n), max_bytes - text.size()));
  }
}

bool write_text(int file, const std::string& text) noexcept {
  for (std::size_t done = 0; done < text.size();) {
    const ::ssize_t n = ::write(file, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

std::string in_child(const std::function<std::string()>& work) {
  Pipe pipe;
  const ::pid_t pid = ::fork();
  if (pid < 0)
    fail("start a process");
  if (pid == 0)
    answer(pipe.write_end.get(), work);
  pipe.write_end.close();
  const std::string text = read_to_end(pipe.read_end.get(), kMaxAnswerBytes);
  ::siginfo_t info{};
  wait_for(pid, info);
  if (!text.empty() && text[0] == '+')
    return text.substr(1);
  throw Error(ErrorKind::kRuntime, text.empty()
                                       ? "asking the runtimes ended by " + how_it_ended(info.si_code, info.si_status)
                                       : text.substr(1));
}

void detach(const File& log, const std::vector<int>& keep, const std::function<void()>& work) {
  const ::pid_t pid = ::fork();
  if (pid < 0)
    fail("start a process");
  if (pid > 0) {
    ::siginfo_t info{};
    wait_for(pid, info);
    return;
  }
  ::setsid();
  std::signal(SIGHUP, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  if (::fork() != 0)
    _exit(0);
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::dup2(nothing, 0);
  ::dup2(log.get(), 1);
  ::dup2(log.get(), 2);
  // The host's end of a transport closes only when nobody holds a copy of our pipes any more.
  for (int file = 3; file < kMaxInheritedFiles; ++file) {
    if (std::find(keep.begin(), keep.end(), file) == keep.end())
      ::close(file);
  }
  try {
    work();
  } catch (const std::exception& error) {
    write_text(2, std::string("melt-agent: ") + error.what() + "\n");
  }
  _exit(0);
}

std::string how_it_ended(int code, int status) {
  if (code == CLD_EXITED)
    return "exit code " + std::to_string(status);
  std::string text = "signal " + std::to_string(status) + " (" + strsignal(status) + ")";
  if (status == SIGKILL)
    text += ", as when memory runs out";
  if (status == SIGILL)
    text += ": an instruction that this CPU does not have";
  return text;
}

}  // namespace melt::agent
