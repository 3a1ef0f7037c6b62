// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "melt/environment.h"

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

/// A made-up system under a folder of its own.
class FakeRoot {
 public:
  FakeRoot() {
    char name[] = "/tmp/melt-root-XXXXXX";
    path_ = mkdtemp(name);
    write("/proc/meminfo", "MemTotal:       4096 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n");
  }
  ~FakeRoot() { std::filesystem::remove_all(path_); }
  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
    std::ofstream(path_ + file) << text;
  }
  melt::DeviceMemory read() const { return melt::device_memory(path_); }

 private:
  std::string path_;
};

}  // namespace

TEST_CASE("without a cgroup the machine's memory counts") {
  const FakeRoot root;
  CHECK(root.read().total_bytes == 4 * kMiB);
  CHECK(root.read().available_bytes == 2 * kMiB);
}

TEST_CASE("a cgroup's limit is the device's memory, and its page cache is available") {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "0::/box/inner\n");
  root.write("/sys/fs/cgroup/box/memory.max", "1048576\n");
  root.write("/sys/fs/cgroup/box/memory.current", "700000\n");
  root.write("/sys/fs/cgroup/box/memory.stat", "anon 1\nactive_file 100000\ninactive_file 200000\n");
  root.write("/sys/fs/cgroup/box/inner/memory.max", "max\n");
  root.write("/sys/fs/cgroup/box/inner/memory.current", "5\n");
  const melt::DeviceMemory memory = root.read();
  CHECK(memory.total_bytes == kMiB);
  CHECK(memory.available_bytes == kMiB - 400000);
  CHECK(memory.source.find("/box/memory.max") != std::string::npos);
}

TEST_CASE("version 1, a path of another namespace, no limit, usage above the limit") {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "3:cpu:/\n2:memory:/not/seen/here\n0::/\n");
  root.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  root.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "2097152\n");
  CHECK(root.read().available_bytes == 2 * kMiB);
  root.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n");
  CHECK(root.read().total_bytes == kMiB);
  CHECK(root.read().available_bytes == 0);
}

TEST_CASE("an unknown memory says so") {
  const melt::DeviceMemory memory = melt::device_memory("/nonexistent");
  CHECK(memory.available_bytes == UINT64_MAX);
  CHECK(memory.source.find("unknown") != std::string::npos);
}
