// SPDX-License-Identifier: Apache-2.0
// runs/RUN/status.json: how far a run is. It is replaced as a whole, and outlives every process.
#pragma once

#include <cstdint>
#include <string>

#include "json_value.h"
#include "work_dir.h"

namespace melt::agent {

/// Folder and files of a run, as paths in the work directory.
std::string run_path(const std::string& run);
std::string trace_path(const std::string& run);
std::string status_path(const std::string& run);

/// {kind, message, transient: false} and, where `signal` is not 0, signal.
std::string error_json(const std::string& kind, const std::string& message, int signal = 0);

struct RunStatus {
  std::string run;
  std::string host;
  std::string boot_id;
  std::string state = "queued";
  std::string phase = "load";
  std::int64_t pid = 0;
  std::int64_t started_ns = 0;
  std::int64_t started_wall_ns = 0;
  std::int64_t trace_zero_ns = 0;  ///< steady time of the trace's time 0; 0 until the model is loaded
  std::uint32_t repetition = 0;
  std::uint32_t repetitions = 0;
  std::uint32_t tokens_done = 0;

  /// `outcome`: an object whose members, "state" among them, go over those above.
  std::string json(const std::string& outcome = "{}") const;
  /// What cannot be written, because the disk is full, is not: the one before stays.
  void write(const WorkDir& work) const noexcept;
  /// Raises: Error(kIo | kInvalidArgument) if there is none, or none that can be read.
  static RunStatus read(const WorkDir& work, const std::string& run);
  static RunStatus from(const std::string& run, const JsonValue& json);
};

/// The file's members as they are. Raises: as RunStatus::read.
JsonValue read_status(const WorkDir& work, const std::string& run);

/// `outcome` with the trace's size and hash and the time.
std::string with_trace(const WorkDir& work, const std::string& run, const std::string& outcome);

/// Writes the last status of a run whose measuring process has ended. Raises: Error(kIo).
void write_last(const WorkDir& work, const std::string& run, const std::string& outcome);

constexpr std::size_t kMaxStatusBytes = std::size_t{1} << 20;

}  // namespace melt::agent
