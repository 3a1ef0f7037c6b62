// SPDX-License-Identifier: Apache-2.0
// Context switches of a thread as the kernel notes them, and the op records they fall into.
#include <doctest/doctest.h>

#if defined(__linux__)
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "counters/switch_marks.h"
#include "counters/switch_watch.h"
#include "melt/counters.h"
#include "melt/run.h"
#include "melt/thread_stamps.h"
#include "melt/trace_reader.h"

namespace melt {
namespace {

void sleep_ns(long ns) {
  const timespec time{0, ns};
  nanosleep(&time, nullptr);
}

TEST_CASE("the kernel's notes tell when a thread was off its processor") {
  if (!probe_switches().empty())
    return;
  SwitchWatch watch(2);
  REQUIRE(watch.open(0));
  CHECK_FALSE(watch.is_open());  // of two
  CHECK(watch.reason() == "the runtime's threads are not known");
  std::thread other([&] { REQUIRE(watch.open(1)); });
  other.join();
  CHECK(watch.is_open());
  CHECK(watch.reason().empty());
  watch.clear();
  watch.start();
  std::vector<std::pair<std::uint64_t, std::uint64_t>> slept;
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t begin = melt_ticks();
    sleep_ns(2'000'000);
    slept.emplace_back(begin, melt_ticks());
    watch.drain();
  }
  watch.stop();
  const auto found = watch.intervals();
  CHECK(found[1].empty());
  CHECK(watch.n_lost() == 0);
  for (const auto& [begin, end] : slept) {  // each sleep lies around an interval that is nearly as long
    const auto inside = std::find_if(found[0].begin(), found[0].end(), [&, low = begin, high = end](const OffCpu& off) {
      return off.begin_ticks >= low && off.end_ticks <= high && !off.preempted;
    });
    REQUIRE(inside != found[0].end());
    CHECK(inside->end_ticks - inside->begin_ticks > (end - begin) / 4);
  }
  watch.clear();
  CHECK(watch.intervals()[0].empty());
}

TEST_CASE("notes that found no room are counted, and pair with nothing") {
  if (!probe_switches().empty())
    return;
  SwitchWatch watch(1);
  REQUIRE(watch.open(0));
  watch.clear();
  watch.start();
  for (int i = 0; i < 2'000; ++i)  // a note when it goes and one when it comes: more than the ring holds
    sleep_ns(1);
  watch.stop();
  CHECK(watch.n_lost() > 0);  // the kernel itself says so only with the next note
  const auto found = watch.intervals();
  CHECK(found[0].size() > 100);
  for (const OffCpu& off : found[0])
    CHECK(off.end_ticks > off.begin_ticks);
  watch.clear();
  watch.start();
  sleep_ns(1'000'000);
  watch.stop();
  CHECK(watch.n_lost() == 0);  // of this run
}

TEST_CASE("an op is marked if a switch is known to fall inside it, and only then") {
  std::vector<std::vector<OffCpu>> off(1);
  off[0] = {{100, 200, 0, 1, true}, {500, 600, 1, 1, false}, {900, 1'500, 1, 1, true}};
  SwitchMarks marks(off, 5);
  const auto flags = [&](std::uint64_t begin, std::uint64_t end) { return marks.of(0, begin, end).flags; };
  CHECK(flags(0, 100) == 0);
  CHECK(flags(50, 105) == 0);  // no more than the clocks' disagreement
  CHECK(flags(50, 106) == (kOpSwitched | kOpMigrated));
  CHECK(flags(106, 150) == (kOpSwitched | kOpMigrated));
  CHECK(flags(200, 500) == 0);
  CHECK(flags(500, 1'000) == kOpSwitched);
  CHECK(flags(1'000, 1'200) == kOpSwitched);  // it was off all the time
  CHECK(flags(1'500, 2'000) == 0);
  CHECK(SwitchMarks({}, 5).of(0, 0, 2'000).flags == 0);  // a thread that is not watched
  marks.rewind();
  const Disturbance all = marks.of(0, 0, 2'000);
  CHECK(all.switches == 3);
  CHECK(all.migrations == 1);
}

/// While one lives, this thread has to share a processor with another one that spins.
class SharedProcessor {
 public:
  SharedProcessor() {
    sched_getaffinity(0, sizeof all_, &all_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    spinner_ = std::thread([this] {  // inherits the affinity
      while (!stop_.load()) {
      }
    });
  }
  ~SharedProcessor() {
    stop_.store(true);
    spinner_.join();
    sched_setaffinity(0, sizeof all_, &all_);
  }
  SharedProcessor(const SharedProcessor&) = delete;
  SharedProcessor& operator=(const SharedProcessor&) = delete;

 private:
  cpu_set_t all_{};
  std::atomic<bool> stop_{false};
  std::thread spinner_;
};

TEST_CASE("a record is disturbed exactly when its thread was off the processor within it") {
  ModelOptions options;
  options.path = "layers=20,op_ns=1000000,skew=0,clock=host";
  options.n_threads = 1;
  LoadedModel model("synthetic", options);
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  {
    const SharedProcessor shared;
    Profiler profiler(model, *sink, kLevelCounters);
    RunOptions run;
    run.prompt = "a";
    run.max_tokens = 8;
    run.warmup = 0;
    run.overhead_budget_s = 0;
    profiler.run(run);
    profiler.finish();
  }
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  const auto switches = records_of<SwitchRecord>(trace, ChunkKind::kSwitches);
  const bool is_timed = probe_switches().empty();  // else ops are marked by the counts at their two ends
  std::size_t n_marked = 0;
  for (const OpRecord& op : records_of<OpRecord>(trace, ChunkKind::kOps)) {
    const std::int64_t end_ns = op.start_ns + op.compute_ns + op.wait_ns;
    const bool inside = std::any_of(switches.begin(), switches.end(), [&](const SwitchRecord& off) {
      return std::min(end_ns, off.start_ns + off.duration_ns) - std::max(op.start_ns, off.start_ns) > 202;
    });
    const bool near = std::any_of(switches.begin(), switches.end(), [&](const SwitchRecord& off) {
      return std::min(end_ns, off.start_ns + off.duration_ns) - std::max(op.start_ns, off.start_ns) > 198;
    });
    const bool marked = (op.flags & kOpSwitched) != 0;
    n_marked += marked ? 1 : 0;
    if (is_timed && inside == near)
      CHECK(marked == inside);
  }
  CHECK(n_marked > 0);
  CHECK(is_timed == std::any_of(switches.begin(), switches.end(),
                                [](const SwitchRecord& off) { return (off.flags & kSwitchPreempted) != 0; }));
}

}  // namespace
}  // namespace melt
#endif
