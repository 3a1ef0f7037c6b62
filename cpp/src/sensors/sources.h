// SPDX-License-Identifier: Apache-2.0
// The sources of level memory. Each factory returns null where the system offers none of its channels; why a channel
// is absent goes into `missing`, channel -> reason.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "melt/memory.h"
#include "melt/sensor.h"

namespace melt {

using MissingChannels = std::map<std::string, std::string>;

/// /proc, or the folder that MELT_PROCFS_ROOT names: for tests.
std::string procfs_root();
/// /sys, or the folder that MELT_SYSFS_ROOT names.
std::string sysfs_root();

/// Cheap enough for 100 Hz: resident set in all and of files, page faults, context switches.
std::unique_ptr<SensorSource> make_process_memory(MissingChannels& missing);
/// What takes the kernel longer, milliseconds, so every two seconds: swap, proportional share, heap, page cache of
/// `model`.
std::unique_ptr<SensorSource> make_process_detail(const std::string& model, MissingChannels& missing);
/// What others did to this machine meanwhile, 10 times a second: stolen time, pressure, frequency.
std::unique_ptr<SensorSource> make_interference(MissingChannels& missing);

/// What the process holds, worked out between runs; not for the sampling thread: it allocates. Channels: resident bytes
/// of the buffers in `log` by category, of the model file's other pages, of the heap and of the program (each page of
/// the process is in one of them at most: docs/memory.md), RSS, and the peak since reset_peak(). `before` must outlive
/// it.
class MemoryAccount {
 public:
  MemoryAccount(const AllocationLog& log, std::string model_path, const MemoryBefore& before);
  const std::vector<Channel>& channels() const noexcept { return channels_; }
  const MissingChannels& missing() const noexcept { return missing_; }
  /// Makes the kernel forget the process's peak, so that the next read() gives that of what came since.
  void reset_peak() noexcept;
  /// One value for each channel, NaN where there is none.
  std::vector<double> read();

 private:
  struct Held;
  Held held_by_buffers() const;
  double peak_bytes() const;
  const AllocationLog& log_;
  const MemoryBefore& before_;
  std::string model_path_;
  std::vector<Channel> channels_;
  MissingChannels missing_;
};

}  // namespace melt
