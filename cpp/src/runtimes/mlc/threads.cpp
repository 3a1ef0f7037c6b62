// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <string>
#include <thread>
#include <vector>

#include "ffi.h"
#include "melt/error.h"

namespace melt::mlc {
namespace {

constexpr std::int64_t kShareAllCores = -3;  // ThreadGroup::kSpecifyThreadShareAllCore

std::vector<unsigned> usable_cpus() {
  std::vector<unsigned> cpus;
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set))
        cpus.push_back(cpu);
    }
  }
#endif
  for (unsigned cpu = 0; cpus.empty() && cpu < std::thread::hardware_concurrency(); ++cpu)
    cpus.push_back(cpu);
  if (cpus.empty())
    cpus.push_back(0);
  return cpus;
}

}  // namespace

void configure_threads(std::uint32_t n_threads) {
  const std::vector<unsigned> cpus = usable_cpus();
  std::vector<Value> names;
  std::vector<TVMFFIAny> items;
  // Its first list sets how many threads the pool will ever have.
  for (std::size_t i = 0; i < cpus.size() || i < n_threads; ++i) {
    names.push_back(make_string(std::to_string(cpus[i % cpus.size()])));
    items.push_back(names.back().any());
  }
  call_global("runtime.config_threadpool", {any_of(kShareAllCores), any_of(n_threads), make_array(items).any()});
  const std::int64_t n_set = call_global("runtime.NumThreads", {}).any().v_int64;
  if (n_set != n_threads) {
    throw Error(ErrorKind::kInvalidArgument,
                "TVM computes with " + std::to_string(n_set) + " threads, not " + std::to_string(n_threads) +
                    ": its pool of this thread was made earlier. Load the model in a new process or thread");
  }
}

}  // namespace melt::mlc
