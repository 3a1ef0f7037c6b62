// SPDX-License-Identifier: Apache-2.0
#include "counters/perf_group.h"

#include <cerrno>
#include <utility>

#include "counters/perf_open.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>
#endif

namespace melt {

#if defined(__linux__)

const std::vector<PerfEvent>& perf_events() {
  constexpr CounterKind kHardware = CounterKind::kHardware, kSoftware = CounterKind::kSoftware;
  static const std::vector<PerfEvent> events{
      {"cycles", "cycles", kHardware, PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES, true},
      {"instructions", "instructions", kHardware, PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS, true},
      {"llc_misses", "cache-misses", kHardware, PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES, true},
      {"branch_misses", "branch-misses", kHardware, PERF_TYPE_HARDWARE, PERF_COUNT_HW_BRANCH_MISSES, true},
      {"minor_faults", "minor-faults", kSoftware, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS_MIN, true},
      {"major_faults", "major-faults", kSoftware, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS_MAJ, true},
      {"context_switches", "context-switches", kSoftware, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES, false},
      {"migrations", "cpu-migrations", kSoftware, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_MIGRATIONS, false},
  };
  return events;
}

PerfGroup::~PerfGroup() {
  for (const int file : files_)
    close(file);
}

int PerfGroup::add(const PerfEvent& event) {
  perf_event_attr attributes = perf_attributes(event.type, event.config);
  attributes.read_format =
      PERF_FORMAT_GROUP | PERF_FORMAT_ID | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  attributes.disabled = files_.empty() ? 1 : 0;  // members follow their leader
  attributes.exclude_hv = 1;
  attributes.exclude_kernel = event.kind == CounterKind::kHardware ? 1 : 0;
  int file = perf_open(attributes, leader());
  if (file < 0 && errno == EACCES && event.in_user_mode && attributes.exclude_kernel == 0) {
    attributes.exclude_kernel = 1;
    file = perf_open(attributes, leader());
  }
  if (file < 0)
    return errno;
  std::uint64_t id = 0;
  if (ioctl(file, PERF_EVENT_IOC_ID, &id) != 0) {
    const int error = errno;
    close(file);
    return error;
  }
  files_.push_back(file);
  ids_.push_back(id);
  sources_.push_back(std::string("perf ") + event.perf_name + (attributes.exclude_kernel != 0 ? ":u" : ""));
  return 0;
}

void PerfGroup::start() noexcept {
  if (!files_.empty())
    ioctl(leader(), PERF_EVENT_IOC_ENABLE, PERF_IOC_FLAG_GROUP);
}

void PerfGroup::stop() noexcept {
  if (!files_.empty())
    ioctl(leader(), PERF_EVENT_IOC_DISABLE, PERF_IOC_FLAG_GROUP);
}

void PerfGroup::read(int leader, std::uint64_t* words, std::uint32_t n_words) {
  const ssize_t n_bytes = ::read(leader, words, n_words * sizeof(std::uint64_t));
  // 0 where the group could not be put on the processor; shorter than asked never, but then it is no reading either.
  if (n_bytes != static_cast<ssize_t>(n_words * sizeof(std::uint64_t)))
    words[0] = 0;
}

const std::vector<const char*>& rusage_counters() {
  static const std::vector<const char*> names{"minor_faults", "major_faults", "context_switches", "migrations"};
  return names;
}

void read_rusage(int, std::uint64_t* words, std::uint32_t n_words) {
  rusage usage{};
  words[0] = 0;
  if (n_words < kReadHeadWords + kReadWordsPerEvent * rusage_counters().size() || getrusage(RUSAGE_THREAD, &usage) != 0)
    return;
  const std::uint64_t values[] = {
      static_cast<std::uint64_t>(usage.ru_minflt), static_cast<std::uint64_t>(usage.ru_majflt),
      static_cast<std::uint64_t>(usage.ru_nvcsw) + static_cast<std::uint64_t>(usage.ru_nivcsw),
      static_cast<std::uint64_t>(sched_getcpu())};
  words[0] = rusage_counters().size();
  words[1] = words[2] = 0;  // never shared with others
  for (std::size_t i = 0; i < rusage_counters().size(); ++i) {
    words[kReadHeadWords + kReadWordsPerEvent * i] = values[i];
    words[kReadHeadWords + kReadWordsPerEvent * i + 1] = i;
  }
}

#else  // no perf events, and no counts per thread

const std::vector<PerfEvent>& perf_events() {
  constexpr CounterKind kHardware = CounterKind::kHardware, kSoftware = CounterKind::kSoftware;
  static const std::vector<PerfEvent> events{
      {"cycles", "cycles", kHardware, 0, 0, true},
      {"instructions", "instructions", kHardware, 0, 0, true},
      {"llc_misses", "cache-misses", kHardware, 0, 0, true},
      {"branch_misses", "branch-misses", kHardware, 0, 0, true},
      {"minor_faults", "minor-faults", kSoftware, 0, 0, true},
      {"major_faults", "major-faults", kSoftware, 0, 0, true},
      {"context_switches", "context-switches", kSoftware, 0, 0, false},
      {"migrations", "cpu-migrations", kSoftware, 0, 0, false},
  };
  return events;
}

PerfGroup::~PerfGroup() = default;
int PerfGroup::add(const PerfEvent&) {
  return ENOSYS;
}
void PerfGroup::start() noexcept {}
void PerfGroup::stop() noexcept {}
void PerfGroup::read(int, std::uint64_t* words, std::uint32_t) {
  words[0] = 0;
}
const std::vector<const char*>& rusage_counters() {
  static const std::vector<const char*> none;
  return none;
}
void read_rusage(int, std::uint64_t* words, std::uint32_t) {
  words[0] = 0;
}

#endif

PerfGroup::PerfGroup(PerfGroup&& other) noexcept
    : files_(std::exchange(other.files_, {})),
      ids_(std::exchange(other.ids_, {})),
      sources_(std::exchange(other.sources_, {})) {}

PerfGroup& PerfGroup::operator=(PerfGroup&& other) noexcept {
  std::swap(files_, other.files_);
  std::swap(ids_, other.ids_);
  std::swap(sources_, other.sources_);
  return *this;
}

}  // namespace melt
