// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "json.h"
#include "melt/cpu_features.h"
#include "melt/environment.h"
#include "melt/runtime.h"
#include "protocol.h"
#include "text_list.h"

namespace melt::agent {
namespace {

std::int64_t read_clock(clockid_t id) {
  timespec time{};
  clock_gettime(id, &time);
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

std::string names_json(const std::vector<std::string>& names) {
  std::string body;
  for (const std::string& name : names)
    append_item(body, json_string(name));
  return "[" + body + "]";
}

std::string runtimes_json() {
  std::string body;
  for (const std::string& name : runtime_names()) {
    JsonObject details;
    for (const auto& [key, value] : make_runtime(name)->details())
      details.add(key.c_str(), value);
    append_item(body, JsonObject().add("name", name).add_raw("details", details.str()).str());
  }
  return "[" + body + "]";
}

}  // namespace

std::int64_t steady_ns() {
  return read_clock(CLOCK_MONOTONIC);
}

std::int64_t wall_ns() {
  return read_clock(CLOCK_REALTIME);
}

std::int64_t awake_and_asleep_ns() {
#if defined(__linux__)
  return read_clock(CLOCK_BOOTTIME);
#else
  return read_clock(CLOCK_MONOTONIC);  // Darwin's goes on in sleep
#endif
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

std::string describe_json() {
  utsname names{};
  uname(&names);
  return JsonObject()
      .add("protocol", kProtocol)
      .add("version", build_version())
      .add_raw("build", build_json())
      .add_raw("runtimes", runtimes_json())
      .add("arch", names.machine)
      .add_raw("cpu_features", names_json(cpu_features()))
      .add_raw("missing_features", names_json(missing_cpu_features()))
      .add("os", std::string(names.sysname) + " " + names.release)
      .add("page_size", static_cast<std::int64_t>(sysconf(_SC_PAGESIZE)))
      .add("n_cpus", default_thread_count())
      .str();
}

}  // namespace melt::agent
