// SPDX-License-Identifier: Apache-2.0
#include "counters/switch_watch.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <utility>

#include "counters/perf_group.h"
#include "counters/perf_open.h"
#include "melt/thread_stamps.h"

#if defined(__linux__)
#include <sys/ioctl.h>
#include <sys/mman.h>
#endif

namespace melt {
namespace {

constexpr std::size_t kMaxNotes = 1 << 16;  // of one run, all threads; 1.5 MB
constexpr int kAnchorTries = 16;
constexpr std::int64_t kGap = INT64_MIN;  // instead of a time: here the kernel's ring was full

}  // namespace

SwitchWatch::SwitchWatch(unsigned n_threads) : rings_(n_threads) {}

SwitchWatch::~SwitchWatch() {
  close();
}

bool SwitchWatch::is_open() const noexcept {
  return std::all_of(rings_.begin(), rings_.end(), [](const Ring& ring) { return ring.page != nullptr; });
}

void SwitchWatch::clear() {
  n_lost_ = 0;
  notes_.clear();
  if (!is_open())
    return;
  drain();  // what was noted since the last run
  n_lost_ = 0;
  notes_.clear();
  if (notes_.capacity() < kMaxNotes) {
    notes_.resize(kMaxNotes);  // writes every page: no page fault later
    notes_.clear();
  }
}

#if defined(__linux__)

namespace {

// Pages of a ring: 1300 notes, where a graph of some milliseconds sees a few. All rings together stay below what a user
// may lock for this purpose (perf_event_mlock_kb, 516 per processor).
constexpr std::size_t kRingPages = 8;
constexpr std::uint64_t kMaxNoteBytes = 64;

std::size_t page_bytes() noexcept {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::size_t ring_bytes() noexcept {
  return kRingPages * 4096 >= page_bytes() ? kRingPages * 4096 : page_bytes();  // a power of two pages of any size
}

/// What follows the header of a PERF_RECORD_SWITCH with PERF_SAMPLE_TIME and PERF_SAMPLE_CPU.
struct SampleId {
  std::uint64_t time_ns;
  std::uint32_t cpu;
  std::uint32_t reserved;
};

/// Copies out of a ring that may wrap around in between.
void copy_from_ring(void* to, const std::uint8_t* data, std::uint64_t size, std::uint64_t at, std::size_t n) noexcept {
  const std::uint64_t offset = at % size;
  const std::size_t until_end = std::min<std::size_t>(n, static_cast<std::size_t>(size - offset));
  std::memcpy(to, data + offset, until_end);
  std::memcpy(static_cast<std::uint8_t*>(to) + until_end, data, n - until_end);
}

}  // namespace

bool SwitchWatch::open(unsigned thread) noexcept {
  Ring& ring = rings_[thread];
  perf_event_attr attributes = perf_attributes(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY);
  attributes.disabled = 1;
  attributes.exclude_kernel = attributes.exclude_hv =
      1;  // so no privilege is asked for: switches are noted all the same
  attributes.context_switch = 1;
  attributes.sample_id_all = 1;
  attributes.sample_type = PERF_SAMPLE_TIME | PERF_SAMPLE_CPU;
  attributes.use_clockid = 1;
  attributes.clockid = CLOCK_MONOTONIC_RAW;  // the counter's own pace: nobody adjusts it, as the steady clock is
  ring.file = perf_open(attributes, -1);
  if (ring.file < 0) {
    ring.error = errno;
    ring.call = "perf_event_open";
    return false;
  }
  void* page = mmap(nullptr, page_bytes() + ring_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, ring.file, 0);
  if (page == MAP_FAILED) {
    ring.error = errno;
    ring.call = "mmap";
    ::close(ring.file);
    ring.file = -1;
    return false;
  }
  ring.page = page;
  return true;
}

void SwitchWatch::close() noexcept {
  for (Ring& ring : rings_) {
    if (ring.page != nullptr)
      munmap(ring.page, page_bytes() + ring_bytes());
    if (ring.file >= 0)
      ::close(ring.file);
    ring = Ring{};
  }
}

std::string SwitchWatch::reason() const {
  for (const Ring& ring : rings_) {
    if (ring.error == 0)
      continue;
    if (std::strcmp(ring.call, "mmap") == 0) {
      return std::string("no memory for the kernel's notes: ") + std::strerror(ring.error) +
             "; raise kernel.perf_event_mlock_kb";
    }
    return perf_reason(ring.error);
  }
  return is_open() ? "" : "the runtime's threads are not known";
}

SwitchWatch::Anchor SwitchWatch::read_anchor() noexcept {
  const auto raw_ns = [] {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
  };
  Anchor best;
  std::int64_t best_width = INT64_MAX;
  for (int i = 0; i < kAnchorTries; ++i) {
    const std::int64_t before = raw_ns();
    const std::uint64_t ticks = melt_ticks();
    const std::int64_t after = raw_ns();
    if (after - before < best_width) {
      best_width = after - before;
      best = {ticks, before + (after - before) / 2};
    }
  }
  return best;
}

void SwitchWatch::start() noexcept {
  if (!is_open())
    return;
  first_ = read_anchor();
  for (const Ring& ring : rings_)
    ioctl(ring.file, PERF_EVENT_IOC_ENABLE, 0);
}

void SwitchWatch::stop() noexcept {
  if (!is_open())
    return;
  for (const Ring& ring : rings_)
    ioctl(ring.file, PERF_EVENT_IOC_DISABLE, 0);
  drain();
  last_ = read_anchor();
}

void SwitchWatch::drain() noexcept {
  for (std::size_t thread = 0; thread < rings_.size(); ++thread) {
    if (rings_[thread].page == nullptr)
      continue;
    auto& page = *static_cast<perf_event_mmap_page*>(rings_[thread].page);
    const std::uint64_t head = __atomic_load_n(&page.data_head, __ATOMIC_ACQUIRE);
    const std::uint64_t tail = page.data_tail;
    if (head == tail)
      continue;
    const auto* data = static_cast<const std::uint8_t*>(rings_[thread].page) + page_bytes();
    take(static_cast<std::uint16_t>(thread), data, ring_bytes(), tail, head);
    if (head - tail + kMaxNoteBytes > ring_bytes()) {  // the kernel says how many it lost only with its next note
      note_gap(static_cast<std::uint16_t>(thread), 1);
      rings_[thread].gap_noted = true;
    }
    __atomic_store_n(&page.data_tail, head, __ATOMIC_RELEASE);
  }
}

void SwitchWatch::take(std::uint16_t thread, const std::uint8_t* data, std::uint64_t size, std::uint64_t tail,
                       std::uint64_t head) noexcept {
  while (tail < head) {
    perf_event_header header{};
    copy_from_ring(&header, data, size, tail, sizeof header);
    if (header.size < sizeof header)
      return;  // not a ring of ours
    if (header.type == PERF_RECORD_SWITCH) {
      SampleId id{};
      copy_from_ring(&id, data, size, tail + sizeof header, sizeof id);
      if (notes_.size() < notes_.capacity()) {
        notes_.push_back({static_cast<std::int64_t>(id.time_ns), id.cpu, thread, header.misc});
      } else {
        ++n_lost_;
      }
    } else if (header.type == PERF_RECORD_LOST) {
      if (std::exchange(rings_[thread].gap_noted, false)) {
        tail += header.size;
        continue;
      }
      std::uint64_t id_and_count[2] = {0, 0};
      copy_from_ring(id_and_count, data, size, tail + sizeof header, sizeof id_and_count);
      note_gap(thread, id_and_count[1]);
    }
    tail += header.size;
  }
}

void SwitchWatch::note_gap(std::uint16_t thread, std::uint64_t n_lost) noexcept {
  n_lost_ += n_lost;
  if (notes_.size() < notes_.capacity())
    notes_.push_back({kGap, 0, thread, 0});
}

std::uint64_t SwitchWatch::to_ticks(std::int64_t raw_ns) const noexcept {
  const double slope = last_.raw_ns > first_.raw_ns ? static_cast<double>(last_.ticks - first_.ticks) /
                                                          static_cast<double>(last_.raw_ns - first_.raw_ns)
                                                    : 0.0;
  const double offset = static_cast<double>(raw_ns - first_.raw_ns) * slope;
  return first_.ticks + static_cast<std::uint64_t>(std::llround(offset));
}

std::vector<std::vector<OffCpu>> SwitchWatch::intervals() const {
  std::vector<std::vector<OffCpu>> found(rings_.size());
  std::vector<const Note*> out(rings_.size(), nullptr);  // the last note of each thread, if it left a processor
  for (const Note& note : notes_) {
    if (note.raw_ns == kGap) {
      out[note.thread] = nullptr;  // what comes next may not belong to what came before
      continue;
    }
    if ((note.kind & PERF_RECORD_MISC_SWITCH_OUT) != 0) {
      out[note.thread] = &note;
      continue;
    }
    const Note* left = std::exchange(out[note.thread], nullptr);
    if (left == nullptr)
      continue;
    constexpr std::uint16_t kPreempted = 1 << 14;  // PERF_RECORD_MISC_SWITCH_OUT_PREEMPT, since Linux 4.17
    found[note.thread].push_back(
        {to_ticks(left->raw_ns), to_ticks(note.raw_ns), left->cpu, note.cpu, (left->kind & kPreempted) != 0});
  }
  return found;
}

#else

bool SwitchWatch::open(unsigned thread) noexcept {
  rings_[thread].error = ENOSYS;
  return false;
}
void SwitchWatch::close() noexcept {}
std::string SwitchWatch::reason() const {
  return "this system does not tell when a thread loses its processor";
}
void SwitchWatch::start() noexcept {}
void SwitchWatch::stop() noexcept {}
void SwitchWatch::drain() noexcept {}
std::vector<std::vector<OffCpu>> SwitchWatch::intervals() const {
  return std::vector<std::vector<OffCpu>>(rings_.size());
}

#endif

}  // namespace melt
