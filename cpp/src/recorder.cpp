// SPDX-License-Identifier: Apache-2.0
#include "melt/recorder.h"

#include <algorithm>
#include <cstring>

namespace melt {

OpRecorder::OpRecorder(unsigned n_threads, RecorderLimits limits)
    : limits_(limits), ring_storage_(static_cast<std::size_t>(n_threads) * limits.ring_stamps), rings_(n_threads) {
  for (unsigned i = 0; i < n_threads; ++i) {
    rings_[i] = melt_stamp_ring{};
    rings_[i].stamps = ring_storage_.data() + static_cast<std::size_t>(i) * limits.ring_stamps;
    rings_[i].capacity = limits.ring_stamps;
  }
}

void OpRecorder::count_with(const std::vector<CounterReader>& readers, std::uint32_t n_words) {
  entry_words_ = n_words == 0 ? 0 : n_words + 1;
  const std::size_t capacity = static_cast<std::size_t>(limits_.ring_stamps) + 1;
  counter_storage_.assign(n_words == 0 ? 0 : capacity * entry_words_ * rings_.size(), 0);
  counter_rings_.assign(rings_.size(), melt_counter_ring{});
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    rings_[i].counters = nullptr;
    if (n_words == 0 || i >= readers.size() || readers[i].read == nullptr)
      continue;
    melt_counter_ring& ring = counter_rings_[i];
    ring.entries = counter_storage_.data() + capacity * entry_words_ * i;
    ring.entry_words = entry_words_;
    ring.capacity = static_cast<std::uint32_t>(capacity);
    ring.file = readers[i].file;
    ring.read = readers[i].read;
    rings_[i].counters = &ring;
  }
}

void OpRecorder::begin_run(std::size_t n_graphs, std::size_t n_groups) {
  const std::size_t per_graph = (n_groups + 1) * rings_.size();
  const std::size_t stamp_bytes = sizeof(melt_stamp) + entry_words_ * sizeof(std::uint64_t);
  const std::size_t wanted = std::min(n_graphs * per_graph, limits_.log_bytes / stamp_bytes);
  if (log_.size() < wanted)
    log_.resize(wanted);  // resize writes every page: no page fault later
  if (counter_log_.size() < log_.size() * entry_words_)
    counter_log_.resize(log_.size() * entry_words_);
  if (watch_ != nullptr)
    watch_->begin_run();
  log_used_ = 0;
  graphs_.clear();
  graphs_.reserve(n_graphs);
  host_events_.clear();
  host_events_.reserve(n_graphs + 1);
  token_ = 0;
  graphs_lost_ = 0;
}

void OpRecorder::graph_begin(std::uint32_t topology) noexcept {
  for (melt_stamp_ring& ring : rings_) {
    ring.count = ring.dropped = 0;
    if (ring.counters != nullptr)
      ring.counters->count = 0;
  }
  current_.topology = topology;
  current_.token = token_;
}

void OpRecorder::graph_end(unsigned n_threads, std::uint64_t begin_ticks, std::uint64_t end_ticks,
                           bool aborted) noexcept {
  if (watch_ != nullptr)
    watch_->drain();
  if (graphs_.size() == graphs_.capacity()) {
    ++graphs_lost_;
    return;
  }
  const unsigned n = std::min(n_threads, n_rings());
  std::size_t needed = n;
  std::uint32_t dropped = 0;
  for (unsigned i = 0; i < n; ++i) {
    needed += rings_[i].count;
    dropped += rings_[i].dropped;
  }
  current_.begin_ticks = begin_ticks;
  current_.end_ticks = end_ticks;
  current_.thread_end_ticks = rings_[0].thread_end;
  current_.n_threads = n;
  current_.n_groups = rings_[0].count + rings_[0].dropped;
  current_.aborted = aborted;
  max_groups_seen_ = std::max<std::size_t>(max_groups_seen_, current_.n_groups);
  if (current_.topology == kNone || needed > log_.size() - log_used_) {
    current_.offset = kNoStamps;
    current_.n_dropped = dropped + static_cast<std::uint32_t>(needed - n);
  } else {
    current_.offset = log_used_;
    current_.n_dropped = dropped;
    for (unsigned i = 0; i < n; ++i) {
      const melt_stamp_ring& ring = rings_[i];
      log_[log_used_] = {ring.thread_begin, ring.count, ring.dropped};
      std::memcpy(&log_[log_used_ + 1], ring.stamps, ring.count * sizeof(melt_stamp));
      log_counters(i, log_used_);
      log_used_ += ring.count + 1;
    }
  }
  graphs_.push_back(current_);
}

/// Copies a thread's entries to where its stamps are; what was not read becomes zeros.
void OpRecorder::log_counters(unsigned thread, std::size_t first_slot) noexcept {
  if (entry_words_ == 0)
    return;
  const melt_counter_ring* counters = rings_[thread].counters;
  const std::size_t n_slots = rings_[thread].count + std::size_t{1};
  const std::size_t n_read = counters == nullptr ? 0 : std::min<std::size_t>(counters->count, n_slots);
  std::uint64_t* to = counter_log_.data() + first_slot * entry_words_;
  if (n_read > 0)
    std::memcpy(to, counters->entries, n_read * entry_words_ * sizeof(std::uint64_t));
  std::fill(to + n_read * entry_words_, to + n_slots * entry_words_, std::uint64_t{0});
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
