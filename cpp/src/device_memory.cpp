// SPDX-License-Identifier: Apache-2.0
// How much memory this process may use: the machine's, or less where a cgroup says so (kernel: admin-guide/cgroup-v1
// and cgroup-v2, memory controller).
#include <algorithm>
#include <fstream>
#include <vector>

#include "melt/environment.h"
#include "sensors/sources.h"

namespace melt {
namespace {

/// One version's names of the same things.
struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* usage;
  const char* active_cache;
  const char* inactive_cache;
};
constexpr CgroupFiles kVersion2 = {"/fs/cgroup", "memory.max", "memory.current", "active_file", "inactive_file"};
constexpr CgroupFiles kVersion1 = {"/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                   "total_active_file", "total_inactive_file"};

/// The number after `key` in a file of "key number" lines; 0 without one.
std::uint64_t number_after(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    std::uint64_t number = 0;
    if (word == key && file >> number)
      return number;
  }
  return 0;
}

void apply_limit(const std::string& folder, const CgroupFiles& files, DeviceMemory& memory) {
  std::uint64_t limit = 0, used = 0;  // "max" does not parse and means no limit; version 1 has a huge number for it
  const std::string limit_path = folder + "/" + files.limit;
  if (!(std::ifstream(limit_path) >> limit) || limit >= memory.total_bytes)
    return;
  if (!(std::ifstream(folder + "/" + files.usage) >> used))
    return;
  const std::string stat = folder + "/memory.stat";
  const std::uint64_t cache = number_after(stat, files.active_cache) + number_after(stat, files.inactive_cache);
  used -= std::min(used, cache);
  memory.total_bytes = limit;
  memory.source = limit_path;
  memory.available_bytes = std::min(memory.available_bytes, limit > used ? limit - used : 0);
}

/// The cgroup of this process and those above it, as far as the mount shows them: inside a container the path of
/// /proc/self/cgroup is often the host's and the mount itself is our cgroup.
void apply_limits(const std::string& sys, std::string path, const CgroupFiles& files, DeviceMemory& memory) {
  for (;;) {
    while (!path.empty() && path.back() == '/')
      path.pop_back();
    apply_limit(sys + files.mount + path, files, memory);
    if (path.empty())
      return;
    path.erase(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

}  // namespace

DeviceMemory device_memory(const std::string& root) {
  const std::string proc = root.empty() ? procfs_root() : root + "/proc";
  const std::string sys = root.empty() ? sysfs_root() : root + "/sys";
  DeviceMemory memory;
  const std::string meminfo = proc + "/meminfo";
  const std::uint64_t total_kb = number_after(meminfo, "MemTotal:");
  memory.source = total_kb > 0 ? meminfo : meminfo + " cannot be read: the device's memory is unknown";
  if (total_kb > 0) {
    memory.total_bytes = total_kb * 1024;
    memory.available_bytes = number_after(meminfo, "MemAvailable:") * 1024;
  }
  std::ifstream cgroups(proc + "/self/cgroup");  // lines of hierarchy:controllers:path
  bool seen = false;
  for (std::string line; std::getline(cgroups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos)
      continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version2 = controllers == ",,";
    if (!version2 && controllers.find(",memory,") == std::string::npos)
      continue;
    seen = true;
    apply_limits(sys, line.substr(second + 1), version2 ? kVersion2 : kVersion1, memory);
  }
  if (!seen)
    apply_limits(sys, "", kVersion2, memory);
  return memory;
}

}  // namespace melt
