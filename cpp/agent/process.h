// SPDX-License-Identifier: Apache-2.0
// Processes: a piece of work in a child of its own, and a process that no hang-up reaches.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "work_dir.h"

namespace melt::agent {

struct Pipe {
  /// Raises: Error(kIo).
  Pipe();
  File read_end, write_end;
};

/// Reads to the end, at most `max_bytes`; what follows is thrown away.
std::string read_to_end(int file, std::size_t max_bytes);
/// Returns whether all of it could be written.
bool write_text(int file, const std::string& text) noexcept;

/// What `work` returns, executed in a child process, whose death it survives: it takes nothing of the runtimes' state
/// into this process. Raises: Error(kRuntime) if the child died; Error(kIo).
std::string in_child(const std::function<std::string()>& work);

/// Forks a process in a session of its own, out of reach of the terminal's hang-up, and of no parent but init, to which
/// a pipe that nobody reads is an error and no death; it executes `work` and ends. Its standard input is empty, its
/// standard output and error go to `log`; of the other open files it keeps those in `keep`.
void detach(const File& log, const std::vector<int>& keep, const std::function<void()>& work);

/// "signal 9 (Killed), as when memory runs out", or "exit code 3", from what waitid(2) gave.
std::string how_it_ended(int code, int status);

}  // namespace melt::agent
