// SPDX-License-Identifier: Apache-2.0
// What this process may count, found by trying.
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "counters/perf_group.h"
#include "counters/switch_watch.h"
#include "json.h"
#include "melt/counters.h"
#include "sensors/sources.h"
#include "text_list.h"

namespace melt {
namespace {

/// The errno's name, as man pages write it, and what it means for perf_event_open.
std::pair<const char*, const char*> meaning(int error) {
  switch (error) {
    case ENOSYS:
      return {"ENOSYS", "this kernel, or a sandbox around this process, has no perf events"};
    case EACCES:
      return {"EACCES", "not permitted: lower kernel.perf_event_paranoid, or grant CAP_PERFMON"};
    case EPERM:
      return {"EPERM", "forbidden by a seccomp filter, as containers have, or by a security module"};
    case ENOENT:
      return {"ENOENT",
              "this kernel has no such event: no driver for this processor's counters, as in most virtual "
              "machines"};
    case EOPNOTSUPP:
      return {"EOPNOTSUPP", "this processor has no such counter"};
    case EMFILE:
      return {"EMFILE", "each event takes a file for each thread: raise the limit of open files (ulimit -n)"};
    case ENFILE:
      return {"ENFILE", "the system's limit of open files is reached"};
    case EINVAL:
      return {"EINVAL", "not known to this kernel, or more events than this processor has counters"};
    case ENOSPC:
      return {"ENOSPC", "more events than this processor has counters"};
    case E2BIG:
      return {"E2BIG", "more events than a group can have, or not known to this kernel"};
    case EBUSY:
      return {"EBUSY", "someone else has these counters for himself"};
    default:
      return {"", "see perf_event_open(2)"};
  }
}

}  // namespace

std::string perf_event_paranoid() {
  std::ifstream file(procfs_root() + "/sys/kernel/perf_event_paranoid");
  std::string value;
  return file >> value ? value : "absent";
}

std::string perf_reason(int error) {
  const auto [name, explanation] = meaning(error);
  std::string reason = std::string("perf_event_open: ") + std::strerror(error);
  if (*name != '\0')
    reason += std::string(" (") + name + ")";
  return reason + ": " + explanation + "; perf_event_paranoid is " + perf_event_paranoid();
}

std::vector<CounterStatus> probe_counters() {
  PerfGroup group;
  std::map<std::string, std::string> source, reason;
  for (const PerfEvent& event : perf_events()) {
    const int error = group.add(event);
    if (error != 0) {
      reason[event.name] = perf_reason(error);
    } else {
      source[event.name] = group.sources().back();
    }
  }
  if (group.size() == 0) {  // without perf: the kernel's usage counts, which need no permission
    for (const char* name : rusage_counters())
      source[name] = std::string(name) == "migrations" ? "sched_getcpu before and after" : "getrusage";
  } else if (probe_switches().empty()) {
    for (const char* name : {"context_switches", "migrations"}) {
      if (source.count(name) == 0)  // kernel mode, which this process may not count, but it may know when
        source[name] = SwitchWatch::kSource;
    }
  }
  std::vector<CounterStatus> found;
  for (const PerfEvent& event : perf_events()) {
    const bool is_there = source.count(event.name) != 0;
    found.push_back({event.name, event.kind, is_there ? source[event.name] : "", is_there ? "" : reason[event.name]});
  }
  return found;
}

std::string probe_switches() {
  SwitchWatch watch(1);
  return watch.open(0) ? "" : watch.reason();
}

std::string counters_json() {
  std::string list;
  for (const CounterStatus& status : probe_counters()) {
    JsonObject row;
    row.add("name", status.name)
        .add("kind", status.kind == CounterKind::kHardware ? "hardware" : "software")
        .add("source", status.source)
        .add("reason", status.reason);
    append_item(list, row.str());
  }
  return JsonObject()
      .add_raw("counters", "[" + list + "]")
      .add("switches_reason", probe_switches())
      .add("perf_event_paranoid", perf_event_paranoid())
      .str();
}

}  // namespace melt
