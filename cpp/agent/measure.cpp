// SPDX-License-Identifier: Apache-2.0
#include "measure.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <new>

#include "device.h"
#include "json.h"
#include "melt/error.h"
#include "protocol.h"
#include "sha256.h"

namespace melt::agent {
namespace {

// An answer has to fit its line; all ids are in the trace.
constexpr std::size_t kMaxIds = 16384;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 16;

std::atomic<bool> cancel{false};

void on_signal(int) {
  cancel.store(true);
}

void listen_for_cancel() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::string ids_json(const std::vector<std::int32_t>& ids) {
  std::string body;
  for (std::size_t i = 0; i < std::min(ids.size(), kMaxIds); ++i)
    body += (i == 0 ? "" : ", ") + std::to_string(ids[i]);
  return "[" + body + "]";
}

std::string success_json(const RunResult& result) {
  return JsonObject()
      .add("state", result.cancelled ? "cancelled" : "done")
      .add_raw("prompt_ids", ids_json(result.prompt_ids))
      .add_raw("output_ids", ids_json(result.output_ids))
      .add("output_text", result.output_text.substr(0, kMaxTextBytes))
      .str();
}

std::string model_file_json(const ProfileRequest& request) {
  JsonObject file;
  try {
    const FileDigest digest = digest_file(request.model.path);
    file.add("sha256", digest.sha256).add("file_bytes", digest.bytes);
  } catch (const Error&) {
    file.add_raw("missing", JsonObject().add("sha256", "the model is not a readable file").str());
  }
  return file.str();
}

/// The steady time of the trace's time 0, and what else of this run a reader may want.
std::string metadata(const ProfileRequest& request, LoadedModel& model, RunStatus& status) {
  const Clock& clock = model.clock();
  status.trace_zero_ns = clock.steady_ns() - model.calibration().to_ns(clock.ticks());
  const std::string agent = JsonObject()
                                .add("protocol", kProtocol)
                                .add("run", status.run)
                                .add("host", status.host)
                                .add("trace_zero_steady_ns", status.trace_zero_ns)
                                .add("boot_id", status.boot_id)
                                .str();
  // After the load: reading the file warms its cache.
  return JsonObject().add_raw("model_file", model_file_json(request)).add_raw("agent", agent).str();
}

RunResult execute(const WorkDir& work, const ProfileRequest& request, RunStatus& status) {
  ModelOptions options = request.model;
  options.cancel = &cancel;
  options.on_progress = [](float) { return !cancel.load(); };
  LoadedModel model(request.runtime, options);
  ProfileHooks hooks;
  hooks.metadata_json = metadata(request, model, status);
  hooks.on_repetition = [&](std::uint32_t done, std::uint32_t total, const Profiler& profiler) {
    status.repetition = done;
    status.repetitions = total;
    status.tokens_done = profiler.tokens_written();
    status.write(work);
  };
  hooks.flush = Flush::kToDisk;  // a device's battery may end, or its button be pressed
  status.phase = "run";
  return profile_to_file(model, request, work.path() + "/" + trace_path(status.run), hooks);
}

}  // namespace

std::string measure(const WorkDir& work, const ProfileRequest& request, RunStatus status,
                    const std::function<void()>& on_started, Hosting hosting) noexcept {
  if (hosting == Hosting::kProcesses)
    listen_for_cancel();
  status.pid = ::getpid();
  status.state = "running";
  status.write(work);
  on_started();
  try {
    return success_json(execute(work, request, status));
  } catch (const Error& error) {
    const bool cancelled = error.kind() == ErrorKind::kCancelled;
    return JsonObject()
        .add("state", cancelled ? "cancelled" : "failed")
        .add_raw("error", error_json(error_class_name(error.kind()), error.what()))
        .str();
  } catch (const std::bad_alloc&) {
    return R"({"state": "failed", "error": )" + error_json("OutOfMemoryError", "memory ran out") + "}";
  } catch (const std::exception& error) {
    return R"({"state": "failed", "error": )" + error_json("RuntimeFailedError", error.what()) + "}";
  }
}

void cancel_measuring(bool yes) noexcept {
  cancel.store(yes);
}

}  // namespace melt::agent
