// SPDX-License-Identifier: Apache-2.0
#include "melt/recorder.h"

#include <algorithm>
#include <cstring>

namespace melt {
namespace {

/// Some 5 to 30 ns: a host that scales the counter for its virtual machine makes it slow. The least of several tries.
double measure_reading_ticks() noexcept {
  constexpr int kTries = 16, kReadings = 64;
  std::uint64_t least = UINT64_MAX;
  for (int i = 0; i < kTries; ++i) {
    const std::uint64_t begin = melt_ticks();
    std::uint64_t end = begin;
    for (int j = 0; j < kReadings; ++j)
      end = melt_ticks();
    least = std::min(least, end - begin);
  }
  return static_cast<double>(least) / kReadings;
}

}  // namespace

OpRecorder::OpRecorder(unsigned n_threads, RecorderLimits limits)
    : limits_(limits), thread_stamps_(n_threads), reading_ticks_(measure_reading_ticks()) {
  current_.topology = kNone;
}

void OpRecorder::count_with(const std::vector<CounterReader>& readers, std::uint32_t n_words) {
  entry_words_ = n_words == 0 ? 0 : n_words + 1;
  thread_counters_.assign(thread_stamps_.size(), melt_thread_counters{});
  for (std::size_t i = 0; i < thread_stamps_.size(); ++i) {
    thread_stamps_[i].counters = nullptr;
    if (n_words == 0 || i >= readers.size() || readers[i].read == nullptr)
      continue;
    thread_counters_[i].entry_words = entry_words_;
    thread_counters_[i].file = readers[i].file;
    thread_counters_[i].read = readers[i].read;
    thread_stamps_[i].counters = &thread_counters_[i];
  }
}

void OpRecorder::begin_run(std::size_t n_graphs, std::size_t n_groups) {
  const std::size_t stamp_bytes = sizeof(melt_stamp) + entry_words_ * sizeof(std::uint64_t);
  const std::size_t wanted =
      std::min(n_graphs * (n_groups + 1), limits_.log_bytes / stamp_bytes / thread_stamps_.size());
  if (thread_slots_ < wanted) {
    thread_slots_ = wanted;
    log_.resize(wanted * thread_stamps_.size());  // resize writes every page: no page fault later
  }
  if (counter_log_.size() < log_.size() * entry_words_)
    counter_log_.resize(log_.size() * entry_words_);
  if (watch_ != nullptr)
    watch_->begin_run();
  slots_used_ = 0;
  graphs_.clear();
  graphs_.reserve(n_graphs);
  host_events_.clear();
  host_events_.reserve(n_graphs + 1);
  token_ = 0;
  lost_ = {};
}

bool OpRecorder::can_read_all(std::uint32_t topology) const noexcept {
  const auto took_ticks = static_cast<double>(current_.end_ticks - current_.begin_ticks);
  return topology != current_.topology || current_.n_groups * reading_ticks_ <= limits_.most_reading_ratio * took_ticks;
}

void OpRecorder::graph_begin(std::uint32_t topology) noexcept {
  const std::size_t room = std::min<std::size_t>(thread_slots_ - slots_used_, UINT32_MAX);
  for (unsigned i = 0; i < n_threads(); ++i) {
    melt_thread_stamps& stamps = thread_stamps_[i];
    const std::size_t head = slot(i, slots_used_);
    stamps.stamps = log_.data() + head + (room > 0 ? 1 : 0);
    stamps.capacity = static_cast<std::uint32_t>(room > 0 ? room - 1 : 0);
    stamps.count = stamps.dropped = 0;
    if (stamps.counters != nullptr) {
      stamps.counters->entries = counter_log_.data() + head * entry_words_;
      stamps.counters->capacity = static_cast<std::uint32_t>(room);
      stamps.counters->count = 0;
    }
  }
  current_.topology = topology;
  current_.token = token_;
}

void OpRecorder::graph_end(unsigned n_threads, std::uint64_t begin_ticks, std::uint64_t end_ticks,
                           bool aborted) noexcept {
  if (watch_ != nullptr)
    watch_->drain();
  const unsigned n = std::min(n_threads, this->n_threads());
  std::uint32_t most = 0;
  std::uint32_t stamped = 0;
  std::uint32_t dropped = 0;
  for (unsigned i = 0; i < n; ++i) {
    most = std::max(most, thread_stamps_[i].count);
    stamped += thread_stamps_[i].count;
    dropped += thread_stamps_[i].dropped;
  }
  current_.begin_ticks = begin_ticks;
  current_.end_ticks = end_ticks;
  current_.thread_end_ticks = thread_stamps_[0].thread_end;
  current_.n_threads = n;
  current_.n_groups = thread_stamps_[0].count + thread_stamps_[0].dropped;
  current_.aborted = aborted;
  max_groups_seen_ = std::max<std::size_t>(max_groups_seen_, current_.n_groups);
  if (graphs_.size() == graphs_.capacity()) {
    ++lost_.n_graphs;
    lost_.n_groups += current_.n_groups;
    lost_.n_records += std::uint64_t{stamped} + dropped;
    return;
  }
  // Where a thread is not seen, it may have been the last, and the end of its group is not known.
  const bool is_whole = n == n_threads && dropped == 0 && slots_used_ < thread_slots_;
  if (current_.topology == kNone || !is_whole) {
    current_.offset = kNoStamps;
    current_.n_dropped = stamped + dropped;
  } else {
    current_.offset = slots_used_;
    current_.n_dropped = 0;
    for (unsigned i = 0; i < n; ++i) {
      log_[slot(i, slots_used_)] = {thread_stamps_[i].thread_begin, 0, thread_stamps_[i].count, 0};
      clear_unread_counters(i);
    }
    slots_used_ += most + std::size_t{1};
  }
  graphs_.push_back(current_);
}

/// What a thread did not read in the current graph becomes zeros.
void OpRecorder::clear_unread_counters(unsigned thread) noexcept {
  if (entry_words_ == 0)
    return;
  const melt_thread_counters* counters = thread_stamps_[thread].counters;
  const std::size_t n_slots = thread_stamps_[thread].count + std::size_t{1};
  const std::size_t n_read = counters == nullptr ? 0 : std::min<std::size_t>(counters->count, n_slots);
  std::uint64_t* const entries = counter_log_.data() + slot(thread, slots_used_) * entry_words_;
  std::fill(entries + n_read * entry_words_, entries + n_slots * entry_words_, std::uint64_t{0});
}

void OpRecorder::host_op(HostOp op, std::uint64_t begin_ticks, std::uint64_t end_ticks) noexcept {
  if (host_events_.size() == host_events_.capacity())
    return;
  host_events_.push_back({op, token_, begin_ticks, end_ticks});
}

void set_text(char* field, std::size_t size, const std::string& text) noexcept {
  std::size_t n = std::min(size, text.size());
  while (n < text.size() && n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80)
    --n;
  std::memcpy(field, text.data(), n);
  std::memset(field + n, 0, size - n);
}

}  // namespace melt
