// SPDX-License-Identifier: Apache-2.0
// The hook in ggml-cpu's node loop on a real pool: who computes and who waits, at barriers where one thread is late.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "spin_graph.h"

namespace {

constexpr unsigned kNodes = 60;
constexpr std::int64_t kShortNs = 40'000, kLongNs = 160'000;
constexpr std::int64_t kNearNs = 5'000;
constexpr int kTries = 20;  // what else runs on the machine can only make it worse

/// A graph at whose barriers the threads take turns in being the last, and what was recorded of it.
class Turns {
 public:
  Turns(unsigned n_threads, melt::RecorderLimits limits)
      : n_threads_(n_threads),
        graph_(n_threads, kNodes,
               [&](unsigned node, unsigned thread) { return node % n_threads == thread ? kLongNs : kShortNs; }),
        recorded_(graph_.record(limits)) {
    REQUIRE(recorded_.ops.size() == std::size_t{kNodes} * n_threads_);
    check_partition();
  }

  bool ends_were_seen() const { return recorded_.graph.flags == melt::kGraphEndsSeen; }

  /// How far compute and wait usually are from the threads' own readings, by another clock.
  std::int64_t median_error_ns() const {
    std::vector<std::int64_t> errors;
    for (unsigned node = 1; node + 1 < kNodes; ++node) {
      for (unsigned thread = 0; thread < n_threads_; ++thread) {
        const melt::OpRecord& op = recorded_.ops[node * n_threads_ + thread];
        const std::int64_t ended_ns = graph_.times(node, thread).ended_ns;
        errors.push_back(std::abs(op.compute_ns - (ended_ns - graph_.ended_ns(node - 1))));
        errors.push_back(std::abs(op.wait_ns - (graph_.ended_ns(node) - ended_ns)));
      }
    }
    const auto middle = errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2);
    std::nth_element(errors.begin(), middle, errors.end());
    return *middle;
  }

 private:
  /// All threads leave a barrier at the same time, which is when the next group begins, and no time is negative.
  void check_partition() const {
    const std::vector<melt::OpRecord>& ops = recorded_.ops;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      CHECK(ops[i].thread == i % n_threads_);
      CHECK(ops[i].compute_ns >= 0);
      CHECK(ops[i].wait_ns >= 0);
      if (i < 2 * std::size_t{n_threads_})
        continue;  // threads begin a graph at times of their own
      const melt::OpRecord& before = ops[i - n_threads_];
      CHECK(std::abs(before.start_ns + before.compute_ns + before.wait_ns - ops[i].start_ns) <= 1);
    }
  }

  unsigned n_threads_;
  melt_test::SpinGraph graph_;
  melt_test::SpinGraph::Recorded recorded_;
};

melt::RecorderLimits reading_ratio(double most) {
  melt::RecorderLimits limits;
  limits.most_reading_ratio = most;
  return limits;
}

}  // namespace

TEST_CASE("op hooks: each thread's compute and wait are its own, whether or not the last one reads its end") {
  for (const unsigned n_threads : {1u, 2u}) {
    for (const double most : {1.0, 0.0}) {
      CAPTURE(n_threads);
      CAPTURE(most);
      std::int64_t least_error_ns = INT64_MAX;
      for (int i = 0; i < kTries && least_error_ns > kNearNs; ++i) {
        const Turns turns(n_threads, reading_ratio(most));
        CHECK(turns.ends_were_seen() == (n_threads > 1 && most == 0.0));
        least_error_ns = std::min(least_error_ns, turns.median_error_ns());
      }
      CHECK(least_error_ns <= kNearNs);
    }
  }
}

TEST_CASE("op hooks: more threads than processors leave a whole trace too") {
  for (const double most : {1.0, 0.0})
    Turns(5, reading_ratio(most));
}
