// SPDX-License-Identifier: Apache-2.0
#include "run_status.h"

#include <algorithm>

#include "device.h"
#include "json.h"
#include "melt/error.h"

namespace melt::agent {
namespace {

std::int64_t integer(const JsonValue& json, const char* key) {
  const JsonValue* value = json.find(key);
  return value == nullptr ? 0 : value->as_integer(key, INT64_MIN, INT64_MAX);
}

std::string text(const JsonValue& json, const char* key) {
  const JsonValue* value = json.find(key);
  return value == nullptr ? "" : value->as_string(key);
}

}  // namespace

std::string run_path(const std::string& run) {
  return "runs/" + run;
}

std::string trace_path(const std::string& run) {
  return run_path(run) + "/trace.melt";
}

std::string status_path(const std::string& run) {
  return run_path(run) + "/status.json";
}

std::string error_json(const std::string& kind, const std::string& message, int signal) {
  JsonObject error;
  error.add("kind", kind).add("message", message).add("transient", false);
  if (signal != 0)
    error.add("signal", signal);
  return error.str();
}

std::string RunStatus::json(const std::string& outcome) const {
  const JsonValue over = parse_json(outcome);
  JsonObject object;
  object.add("run", run).add("host", host).add("boot_id", boot_id);
  if (over.find("state") == nullptr)
    object.add("state", state);
  object.add("phase", phase)
      .add("pid", pid)
      .add("started_ns", started_ns)
      .add("started_wall_ns", started_wall_ns)
      .add("updated_ns", steady_ns());
  if (trace_zero_ns != 0)
    object.add("trace_zero_ns", trace_zero_ns);
  object.add("repetition", repetition).add("repetitions", repetitions).add("tokens_done", tokens_done);
  for (std::size_t i = 0; i < over.keys().size(); ++i)
    object.add_raw(over.keys()[i].c_str(), over.values()[i].str());
  return object.str();
}

void RunStatus::write(const WorkDir& work) const noexcept {
  try {
    work.replace(status_path(run), json());
  } catch (...) {
  }
}

JsonValue read_status(const WorkDir& work, const std::string& run) {
  return parse_json(work.read(status_path(run), kMaxStatusBytes));
}

RunStatus RunStatus::read(const WorkDir& work, const std::string& run) {
  return from(run, read_status(work, run));
}

RunStatus RunStatus::from(const std::string& run, const JsonValue& json) {
  RunStatus status;
  status.run = run;
  status.host = text(json, "host");
  status.boot_id = text(json, "boot_id");
  status.state = text(json, "state");
  status.phase = text(json, "phase");
  status.pid = integer(json, "pid");
  status.started_ns = integer(json, "started_ns");
  status.started_wall_ns = integer(json, "started_wall_ns");
  status.trace_zero_ns = integer(json, "trace_zero_ns");
  status.repetition = static_cast<std::uint32_t>(integer(json, "repetition"));
  status.repetitions = static_cast<std::uint32_t>(integer(json, "repetitions"));
  status.tokens_done = static_cast<std::uint32_t>(integer(json, "tokens_done"));
  return status;
}

std::string with_trace(const WorkDir& work, const std::string& run, const std::string& outcome) {
  const JsonValue members = parse_json(outcome);
  JsonObject all;
  for (std::size_t i = 0; i < members.keys().size(); ++i)
    all.add_raw(members.keys()[i].c_str(), members.values()[i].str());
  if (work.exists(trace_path(run))) {
    const FileDigest digest = work.digest(trace_path(run));
    all.add("trace_bytes", digest.bytes).add("trace_sha256", digest.sha256);
  }
  return all.add("ended_ns", steady_ns()).str();
}

void write_last(const WorkDir& work, const std::string& run, const std::string& outcome) {
  work.replace(status_path(run), RunStatus::read(work, run).json(outcome), /*lasting=*/true);
}

}  // namespace melt::agent
