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

void OpRecorder::begin_run(std::size_t n_graphs, std::size_t n_groups) {
  const std::size_t per_graph = (n_groups + 1) * rings_.size();
  const std::size_t wanted = std::min(n_graphs * per_graph, limits_.log_bytes / sizeof(melt_stamp));
  if (log_.size() < wanted)
    log_.resize(wanted);  // resize writes every page: no page fault later
  log_used_ = 0;
  graphs_.clear();
  graphs_.reserve(n_graphs);
  host_events_.clear();
  host_events_.reserve(n_graphs + 1);
  token_ = 0;
  graphs_lost_ = 0;
}

void OpRecorder::graph_begin(std::uint32_t topology) noexcept {
  for (melt_stamp_ring& ring : rings_)
    ring.count = ring.dropped = 0;
  current_.topology = topology;
  current_.token = token_;
}

void OpRecorder::graph_end(unsigned n_threads, std::uint64_t begin_ticks, std::uint64_t end_ticks,
                           bool aborted) noexcept {
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
      log_used_ += ring.count + 1;
    }
  }
  graphs_.push_back(current_);
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
