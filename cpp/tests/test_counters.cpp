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
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "counters/perf_group.h"
#include "counters/switch_watch.h"
#include "counters/thread_events.h"
#include "counting_allocator.h"
#include "melt/counters.h"
#include "melt/error.h"
#include "melt/run.h"
#include "melt/thread_stamps.h"
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

  struct Source final : OpSource {
    void start(OpRecorder&) noexcept override {}
    void stop() noexcept override {}
    void clear(std::size_t) override {}
    std::vector<OpDefinition> describe(std::uint32_t, const std::vector<NodeRange>&) const override { return {}; }
    std::size_t groups_hint() const noexcept override { return 16; }
    bool on_each_thread(void (*work)(void* user, unsigned thread), void* user) override {
      work(user, 0);
      return true;
    }
  };

  Counted() : events(1, options()), recorder(1, {}) {
    events.prepare(source, recorder);
    REQUIRE(recorder.thread_stamps()[0].counters != nullptr);
    recorder.begin_run(1, 16);
    recorder.graph_begin(0);
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
    melt_thread_counters& counters = *recorder.thread_stamps()[0].counters;
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
  const melt_thread_counters& thread = *counted.recorder.thread_stamps()[0].counters;
  thread.read(thread.file, before.data(), words);
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

TEST_CASE("counting and following the threads allocates nothing between the start and the end of a run") {
  ModelOptions options;
  options.path = "layers=20,op_ns=1000,skew=0,clock=host";
  options.n_threads = 1;
  LoadedModel model("synthetic", options);
  ThreadEvents events(1, Counted::options());
  OpRecorder recorder(1, {});
  events.prepare(*model.session().ops(), recorder);
  recorder.watch_with(&events);
  recorder.begin_run(40, 61);
  model.session().reset({});
  const std::int32_t id = 1;
  const std::size_t at_first = allocated().count;
  std::size_t before = 0, after = 0;
  {
    const RecordingScope recording(model.session().ops(), recorder);
    before = allocated().count;
    for (int i = 0; i < 32; ++i)
      CHECK(model.session().evaluate(&id, 1) == EvalStatus::kOk);
    after = allocated().count;
  }
  CHECK(after == before);
  CHECK(allocated().count == at_first);
  REQUIRE(recorder.graphs().size() == 32);
  const LoggedGraph& last = recorder.graphs().back();
  const std::uint64_t* entries = recorder.entries(last, 0);
  for (std::uint32_t i = 0; i <= last.n_groups; ++i) {  // one when it began, and one after each group
    CHECK(entries[i * recorder.entry_words()] >= last.begin_ticks - (last.end_ticks - last.begin_ticks));
    CHECK(entries[i * recorder.entry_words()] <= last.end_ticks);
    CHECK(entries[i * recorder.entry_words() + 1] > 0);
  }
}

TEST_CASE("a full log drops counters with the ops, a whole graph at a time") {
  ModelOptions options;
  options.path = "layers=4,op_ns=1000,skew=0,clock=host";
  options.n_threads = 1;
  LoadedModel model("synthetic", options);
  for (const RecorderLimits& limits : {RecorderLimits{1 << 11}, RecorderLimits{1 << 10}}) {
    std::vector<std::uint8_t> bytes;
    const auto sink = make_memory_sink(bytes);
    Profiler profiler(model, *sink, kLevelCounters, "{}", limits);
    RunOptions run;
    run.prompt = "ab";
    run.max_tokens = 3;
    run.warmup = 0;
    run.overhead_budget_s = 0;
    profiler.run(run);
    profiler.finish();
    const TraceContents trace = read_trace(bytes.data(), bytes.size());
    const auto runs = records_of<RunRecord>(trace, ChunkKind::kRuns);
    REQUIRE(runs.size() == 1);
    CHECK(runs[0].n_dropped > 0);
    CHECK(runs[0].n_records + runs[0].n_dropped == 3 * 13);
  }
}

TEST_CASE("op records of level counters are longer by a double for each counter") {
  ModelOptions options;
  options.path = "layers=4,op_ns=1000,skew=0,clock=host";
  options.n_threads = 1;
  LoadedModel model("synthetic", options);
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  Profiler profiler(model, *sink, kLevelCounters);
  RunOptions run;
  run.prompt = "ab";
  run.max_tokens = 3;
  run.overhead_budget_s = 0;
  profiler.run(run);
  profiler.finish();
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  const auto counters = records_of<CounterRecord>(trace, ChunkKind::kCounters);
  REQUIRE(counters.size() >= rusage_counters().size());
  for (std::size_t i = 0; i < counters.size(); ++i)
    CHECK(counters[i].offset == sizeof(OpRecord) + i * sizeof(double));
  std::size_t n_ops = 0;
  for (const TraceChunk& chunk : trace.chunks) {
    if (chunk.header.kind != static_cast<std::uint32_t>(ChunkKind::kOps))
      continue;
    REQUIRE(chunk.header.record_bytes == sizeof(OpRecord) + counters.size() * sizeof(double));
    for (std::uint32_t row = 0; row < chunk.header.record_count; ++row) {
      const std::uint8_t* at = chunk.payload + static_cast<std::size_t>(row) * chunk.header.record_bytes;
      OpRecord record{};
      double value = 0;
      std::memcpy(&record, at, sizeof record);
      std::memcpy(&value, at + counters[0].offset, sizeof value);
      CHECK(std::isnan(value) == (record.graph == kNone));  // host ops are not read
      ++n_ops;
    }
  }
  const auto runs = records_of<RunRecord>(trace, ChunkKind::kRuns);
  REQUIRE(runs.size() == 2);
  CHECK(n_ops == runs[0].n_records + runs[1].n_records + 2 * (3 + 1));  // sampling three times, tokenising once
}

}  // namespace
}  // namespace melt
#endif
