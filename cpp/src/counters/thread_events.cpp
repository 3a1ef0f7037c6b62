// SPDX-License-Identifier: Apache-2.0
#include "counters/thread_events.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>

#include "json.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace melt {
namespace {

std::int64_t this_thread() noexcept {
#if defined(__linux__)
  return syscall(SYS_gettid);
#else
  return 0;
#endif
}

constexpr const char* kSimulated = "the clock is simulated: the kernel knows nothing of such times";
constexpr const char* kUnknownThreads = "this runtime does not tell which threads compute";

}  // namespace

ThreadEvents::ThreadEvents(unsigned n_threads, const ThreadEventOptions& options)
    : options_(options), threads_(n_threads), switches_(n_threads) {
  if (options_.counters)
    plan_counters();
  if (!options_.switches)
    switches_reason_ = "not asked for";
}

/// Decides what a reading holds, by what the calling thread may count.
void ThreadEvents::plan_counters() {
  using From = OpCounter::From;
  for (const CounterStatus& status : probe_counters()) {
    if (status.source.empty()) {
      absent_.push_back(status);
      continue;
    }
    OpCounter counter{status.name, status.kind, status.source, From::kGroup, 0};
    if (status.source == SwitchWatch::kSource) {
      counter.from = status.name == "migrations" ? From::kSwitchesMoved : From::kSwitches;
    } else if (status.source.compare(0, 4, "perf") != 0) {
      counter.from = status.name == "migrations" ? From::kRusageProcessor : From::kRusage;
      const auto& names = rusage_counters();
      counter.event = static_cast<std::uint64_t>(
          std::find_if(names.begin(), names.end(), [&](const char* name) { return status.name == name; }) -
          names.begin());
    } else {
      const auto& events = perf_events();
      counter.event =
          static_cast<std::uint64_t>(std::find_if(events.begin(), events.end(),
                                                  [&](const PerfEvent& event) { return status.name == event.name; }) -
                                     events.begin());
    }
    counters_.push_back(counter);
  }
}

bool ThreadEvents::uses_rusage() const noexcept {
  return std::any_of(counters_.begin(), counters_.end(),
                     [](const OpCounter& counter) { return counter.from == OpCounter::From::kRusage; });
}

std::uint32_t ThreadEvents::reading_words() const noexcept {
  std::size_t n = uses_rusage() ? rusage_counters().size() : 0;
  for (const OpCounter& counter : counters_)
    n += counter.from == OpCounter::From::kGroup ? 1 : 0;
  return n == 0 ? 0 : static_cast<std::uint32_t>(kReadHeadWords + kReadWordsPerEvent * n);
}

void ThreadEvents::prepare(OpSource& source, OpRecorder& recorder) {
  if (prepared_ && threads_[0].id == this_thread())
    return;
  close();
  const bool first = !prepared_;
  prepared_ = true;
  bool known = false;
  if (options_.is_real && (options_.switches || options_.counters)) {
    known = source.on_each_thread([](void* user, unsigned thread) { static_cast<ThreadEvents*>(user)->open(thread); },
                                  this);
  }
  const std::string why_not = options_.is_real ? kUnknownThreads : kSimulated;
  watching_ = known && options_.switches && switches_.is_open();
  if (options_.switches && !watching_) {
    switches_reason_ = known ? switches_.reason() : why_not;
    switches_.close();  // all threads or none: what is not marked would pass for undisturbed
  }
  if (!known && options_.counters && first) {
    for (const OpCounter& counter : counters_)
      absent_.push_back({counter.name, counter.kind, "", why_not});
    counters_.clear();
  }
  std::vector<CounterReader> readers(threads_.size());
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (known && reading_words() != 0 && threads_[i].reason.empty())
      readers[i] = {uses_rusage() ? read_rusage : PerfGroup::read, threads_[i].group.leader()};
  }
  recorder.count_with(readers, known ? reading_words() : 0);
}

/// Runs on the computing thread itself, at the same time as on the others.
void ThreadEvents::open(unsigned number) {
  if (number >= threads_.size())
    return;
  Thread& thread = threads_[number];
  try {
    thread.id = this_thread();
    if (options_.switches)
      switches_.open(number);
    if (!counters_.empty())
      open_group(thread);
  } catch (const std::exception& error) {
    thread.reason = error.what();
  }
}

void ThreadEvents::open_group(Thread& thread) {
  thread.position.assign(counters_.size(), SIZE_MAX);
  for (std::size_t i = 0; i < counters_.size(); ++i) {
    const OpCounter& counter = counters_[i];
    if (counter.from == OpCounter::From::kRusage || counter.from == OpCounter::From::kRusageProcessor)
      thread.position[i] = kReadHeadWords + kReadWordsPerEvent * counter.event;
    if (counter.from != OpCounter::From::kGroup)
      continue;
    const int error = thread.group.add(perf_events()[counter.event]);
    if (error != 0) {
      thread.reason = counter.name + ": " + perf_reason(error);
      thread.group = PerfGroup();
      return;
    }
    thread.position[i] = kReadHeadWords + kReadWordsPerEvent * (thread.group.size() - 1);
  }
}

void ThreadEvents::close() noexcept {
  switches_.close();
  watching_ = false;
  for (Thread& thread : threads_)
    thread = Thread();
}

void ThreadEvents::start() noexcept {
  for (Thread& thread : threads_)
    thread.group.start();
  if (watching_)
    switches_.start();
}

void ThreadEvents::stop() noexcept {
  if (watching_)
    switches_.stop();
  for (Thread& thread : threads_)
    thread.group.stop();
}

bool ThreadEvents::difference(unsigned number, const std::uint64_t* before, const std::uint64_t* after,
                              double* values) const {
  const Thread& thread = threads_[number];
  std::fill(values, values + counters_.size(), std::nan(""));
  const std::uint64_t n_events = (reading_words() - kReadHeadWords) / kReadWordsPerEvent;
  if (thread.position.empty() || before[0] != n_events || after[0] != n_events)
    return false;
  const std::uint64_t enabled_ns = after[1] - before[1], counted_ns = after[2] - before[2];
  if (counted_ns == 0 && enabled_ns != 0)
    return true;  // others had the counters all the time
  const bool is_shared = counted_ns < enabled_ns;
  const double scale = is_shared ? static_cast<double>(enabled_ns) / static_cast<double>(counted_ns) : 1.0;
  for (std::size_t i = 0; i < counters_.size(); ++i) {
    const std::size_t at = thread.position[i];
    if (at == SIZE_MAX)
      continue;
    const bool is_group = counters_[i].from == OpCounter::From::kGroup;
    const std::uint64_t id =
        is_group ? thread.group.ids()[(at - kReadHeadWords) / kReadWordsPerEvent] : counters_[i].event;
    if (before[at + 1] != id || after[at + 1] != id)
      continue;
    if (counters_[i].from == OpCounter::From::kRusageProcessor) {
      values[i] = before[at] == after[at] ? 0.0 : 1.0;
    } else {
      values[i] = static_cast<double>(after[at] - before[at]) * scale;
    }
  }
  return is_shared;
}

std::vector<CounterRecord> ThreadEvents::definitions() const {
  std::vector<CounterRecord> rows;
  for (const OpCounter& counter : counters_) {
    CounterRecord row{};
    set_text(row.name, counter.name);
    set_text(row.source, counter.source);
    row.kind = static_cast<std::uint32_t>(counter.kind);
    row.offset = static_cast<std::uint32_t>(sizeof(OpRecord) + sizeof(double) * rows.size());
    rows.push_back(row);
  }
  return rows;
}

void ThreadEvents::count_run() noexcept {
  if (!watching_)
    return;
  for (const auto& intervals : switches_.intervals())
    n_switches_ += intervals.size();
  n_lost_ += switches_.n_lost();
}

std::string ThreadEvents::metadata(std::uint64_t n_scaled) const {
  JsonObject disturbed;
  const auto counted = std::find_if(counters_.begin(), counters_.end(),
                                    [](const OpCounter& counter) { return counter.name == "context_switches"; });
  if (watching_) {
    disturbed.add("source", SwitchWatch::kSource).add("n_switches", n_switches_).add("n_lost", n_lost_);
  } else if (counted != counters_.end() && counted->from != OpCounter::From::kSwitches) {
    disturbed.add("source", counted->source);
  } else {
    disturbed.add("reason", switches_reason_);
  }
  JsonObject all;
  all.add_raw("disturbed", disturbed.str());
  if (!options_.counters)
    return all.str();
  JsonObject present, missing, threads, counters;
  for (const OpCounter& counter : counters_)
    present.add(counter.name.c_str(), counter.source);
  for (const CounterStatus& status : absent_)
    missing.add(status.name.c_str(), status.reason);
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (!threads_[i].reason.empty())
      threads.add(std::to_string(i).c_str(), threads_[i].reason);
  }
  counters.add_raw("present", present.str())
      .add_raw("missing", missing.str())
      .add_raw("not_counted_threads", threads.str())
      .add("n_scaled", n_scaled)
      .add("perf_event_paranoid", perf_event_paranoid());
  return all.add_raw("counters", counters.str()).str();
}

}  // namespace melt
