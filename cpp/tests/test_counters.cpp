// SPDX-License-Identifier: Apache-2.0
// Counting for real: groups of software events, which every Linux kernel with perf events offers; and processes from
// which perf_event_open is really taken away.
#include <doctest/doctest.h>

#if defined(__linux__)
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "counters/perf_group.h"
#include "counters/switch_marks.h"
#include "counters/switch_watch.h"
#include "counters/thread_events.h"
#include "melt/counters.h"
#include "melt/error.h"
#include "melt/run.h"
#include "melt/stamp_ring.h"
#include "melt/trace_reader.h"

namespace melt {
namespace {

constexpr std::size_t kTouched = 64;  // pages

void sleep_ns(long ns) {
  const timespec time{0, ns};
  nanosleep(&time, nullptr);
}

void touch_new_pages() {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kTouched * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  madvise(memory, kTouched * page, MADV_NOHUGEPAGE);  // or one fault would bring all of them
  for (std::size_t i = 0; i < kTouched; ++i)
    static_cast<volatile char*>(memory)[i * page] = 1;
  munmap(memory, kTouched * page);
}

bool perf_works() {
  PerfGroup group;
  return group.add(perf_events()[4]) == 0;
}

const CounterStatus& status_of(const std::vector<CounterStatus>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& status) { return status.name == name; });
  REQUIRE(found != all.end());
  return *found;
}

/// Runs `work` in a child process and returns what it returned. What it takes from itself is taken from nobody else.
template <typename Work>
int in_child(const Work& work) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 99;
    try {
      code = work();
    } catch (...) {
    }
    _exit(code);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// From here on the kernel answers perf_event_open with `error`, as a container's filter makes it.
bool forbid_perf(int error) {
  sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(SYS_perf_event_open), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{4, rules};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/// A thread that counts as the hot path does: entries of melt_count() around some work.
struct Counted {
  ThreadEvents events;
  std::vector<std::uint64_t> entries;
  melt_counter_ring ring{};

  struct Source final : OpSource {
    void start(OpRecorder&) noexcept override {}
    void stop() noexcept override {}
    void clear() override {}
    std::vector<OpDefinition> describe(std::uint32_t, const std::vector<NodeRange>&) const override { return {}; }
    std::size_t groups_hint() const noexcept override { return 16; }
    bool on_each_thread(void (*work)(void* user, unsigned thread), void* user) override {
      work(user, 0);
      return true;
    }
  };

  Counted() : events(1, options()), recorder(1, {16, 1 << 20}) {
    events.prepare(source, recorder);
    REQUIRE(recorder.rings()[0].counters != nullptr);
    events.begin_run();
    events.start();
  }
  static ThreadEventOptions options() {
    ThreadEventOptions wanted;
    wanted.counters = true;
    return wanted;
  }
  /// The counts of `work`, by name.
  template <typename Work>
  double of(const char* name, const Work& work) {
    melt_counter_ring& counters = *recorder.rings()[0].counters;
    counters.count = 0;
    melt_count(&counters);
    work();
    melt_count(&counters);
    const std::uint32_t words = recorder.entry_words();
    std::vector<double> values(events.counters().size());
    events.difference(0, counters.entries + 1, counters.entries + words + 1, values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (events.counters()[i].name == name)
        return values[i];
    }
    return std::nan("");
  }

  Source source;
  OpRecorder recorder;
};

TEST_CASE("one reading of a group gives all of its events, in the kernel's own layout") {
  if (!perf_works())
    return;
  PerfGroup group;
  for (std::size_t i = 4; i < perf_events().size(); ++i)
    REQUIRE(group.add(perf_events()[i]) == 0);
  group.start();
  std::vector<std::uint64_t> before(kReadHeadWords + kReadWordsPerEvent * group.size()), after = before;
  const auto n_words = static_cast<std::uint32_t>(before.size());
  PerfGroup::read(group.leader(), before.data(), n_words);
  touch_new_pages();
  PerfGroup::read(group.leader(), after.data(), n_words);
  CHECK(after[0] == group.size());
  CHECK(after[1] > before[1]);                          // ns enabled
  CHECK(after[2] - before[2] == after[1] - before[1]);  // software is never shared
  for (std::size_t i = 0; i < group.size(); ++i)
    CHECK(after[kReadHeadWords + 2 * i + 1] == group.ids()[i]);
  CHECK(after[kReadHeadWords] - before[kReadHeadWords] >= kTouched);
  PerfGroup::read(group.leader(), after.data(), n_words - 1);  // no room for the last event
  CHECK(after[0] == 0);
}

TEST_CASE("an op's faults, switches and migrations are counted where they happen") {
  Counted counted;
  CHECK(counted.of("minor_faults", touch_new_pages) >= static_cast<double>(kTouched));
  CHECK(counted.of("minor_faults", [] {}) <= 2.0);
  CHECK(counted.of("context_switches", [] { sleep_ns(1'000'000); }) >= 1.0);
  CHECK(counted.of("major_faults", [] {}) == 0.0);
  cpu_set_t all, one;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  if (CPU_COUNT(&all) < 2)
    return;
  const int here = sched_getcpu();
  const auto move = [&] {  // to any other processor
    int there = 0;
    while (there == here || !CPU_ISSET(there, &all))
      ++there;
    CPU_ZERO(&one);
    CPU_SET(there, &one);
    sched_setaffinity(0, sizeof one, &one);
  };
  CPU_ZERO(&one);
  CPU_SET(here, &one);
  sched_setaffinity(0, sizeof one, &one);
  CHECK(counted.of("migrations", move) >= 1.0);
  sched_setaffinity(0, sizeof all, &all);
}

TEST_CASE("counters that were shared are scaled; never on the processor means not known") {
  if (!perf_works())
    return;
  Counted counted;
  const auto& counters = counted.events.counters();
  const std::uint32_t words = counted.recorder.entry_words() - 1;
  std::vector<std::uint64_t> before(words), after(words);
  melt_counter_ring& ring = *counted.recorder.rings()[0].counters;
  ring.read(ring.file, before.data(), words);
  after = before;
  after[1] += 1'000;  // enabled
  after[2] += 250;    // of it on the processor
  for (std::size_t at = kReadHeadWords; at < words; at += kReadWordsPerEvent)
    after[at] += 10;
  std::vector<double> values(counters.size());
  CHECK(counted.events.difference(0, before.data(), after.data(), values.data()));
  CHECK(std::all_of(values.begin(), values.end(), [](double value) { return value == 40.0; }));
  after[2] = before[2] + 1'000;
  CHECK_FALSE(counted.events.difference(0, before.data(), after.data(), values.data()));
  CHECK(std::all_of(values.begin(), values.end(), [](double value) { return value == 10.0; }));
  after[2] = before[2];
  CHECK(counted.events.difference(0, before.data(), after.data(), values.data()));
  CHECK(std::all_of(values.begin(), values.end(), [](double value) { return std::isnan(value); }));
  after[2] = before[2] + 1'000;
  after[kReadHeadWords + 1] += 1;  // another event's id
  counted.events.difference(0, before.data(), after.data(), values.data());
  CHECK(std::count_if(values.begin(), values.end(), [](double value) { return std::isnan(value); }) == 1);
  after[0] = 0;  // a reading that failed
  CHECK_FALSE(counted.events.difference(0, before.data(), after.data(), values.data()));
  CHECK(std::all_of(values.begin(), values.end(), [](double value) { return std::isnan(value); }));
}

TEST_CASE("a counter is there with its source, or absent with the kernel's reason") {
  for (const CounterStatus& status : probe_counters()) {
    INFO(status.name);
    CHECK(status.source.empty() != status.reason.empty());
    if (!status.reason.empty())
      CHECK(status.reason.find("perf_event_paranoid is ") != std::string::npos);
    if (status.kind == CounterKind::kSoftware)
      CHECK_FALSE(status.source.empty());  // everywhere
  }
}

TEST_CASE("without perf events the reasons say why, and the software events come from getrusage") {
  struct Case {
    int error;
    const char* word;
  };
  for (const Case& wanted :
       {Case{EPERM, "(EPERM): forbidden by a seccomp filter"}, Case{ENOSYS, "(ENOSYS): this kernel"},
        Case{EACCES, "(EACCES): not permitted: lower kernel.perf_event_paranoid"}}) {
    INFO(wanted.word);
    CHECK(in_child([&] {
            if (!forbid_perf(wanted.error))
              return 0;  // no filters here: an emulated system
            const auto found = probe_counters();
            if (status_of(found, "cycles").reason.find(wanted.word) == std::string::npos)
              return 2;
            if (probe_switches().find(wanted.word) == std::string::npos)
              return 3;
            if (status_of(found, "minor_faults").source != "getrusage")
              return 4;
            Counted counted;
            if (counted.of("minor_faults", touch_new_pages) < static_cast<double>(kTouched))
              return 5;
            if (counted.of("context_switches", [] { sleep_ns(1'000'000); }) < 1.0)
              return 6;
            return counted.of("migrations", [] {}) >= 0.0 ? 0 : 7;
          }) == 0);
  }
}

TEST_CASE("too many open files is a reason, not a failure") {
  CHECK(in_child([] {
          if (!perf_works())
            return 0;
          const rlimit few{16, 16};
          setrlimit(RLIMIT_NOFILE, &few);
          while (dup(0) >= 0) {
          }
          if (status_of(probe_counters(), "minor_faults").source != "getrusage")
            return 1;
          return probe_switches().find("(EMFILE)") != std::string::npos ? 0 : 2;
        }) == 0);
}

TEST_CASE("an unprivileged process is told by paranoid, and still knows its switches") {
  CHECK(in_child([] {
          if (!perf_works() || geteuid() != 0 || perf_event_paranoid() != "2")
            return 0;  // only where this can be tried
          if (setgid(65534) != 0 || setuid(65534) != 0)
            return 1;
          const auto found = probe_counters();
          if (status_of(found, "minor_faults").source != "perf minor-faults:u")
            return 2;  // the kernel's part is not for it
          if (status_of(found, "context_switches").source != SwitchWatch::kSource)
            return 3;
          return probe_switches().empty() ? 0 : 4;
        }) == 0);
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
