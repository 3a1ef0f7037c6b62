// SPDX-License-Identifier: Apache-2.0
// Which host has the device: WORK/lease.json, for a time.
#pragma once

#include <cstdint>
#include <string>

#include "work_dir.h"

namespace melt::agent {

class Leases {
 public:
  explicit Leases(const WorkDir& work) : work_(work) {}
  /// Takes or renews it. Raises: DeviceBusy that names the holder; Error(kInvalidArgument); Error(kIo).
  void take(const std::string& host, std::int64_t ttl_s) const;
  /// Returns whether `host` held it.
  bool release(const std::string& host) const;
  /// Raises: DeviceBusy if another host than `host` holds it.
  void check(const std::string& host) const;

 private:
  std::string holder() const;
  /// Held while lease.json is looked at and changed.
  File lock() const;

  const WorkDir& work_;
};

}  // namespace melt::agent
