// SPDX-License-Identifier: Apache-2.0
#include <chrono>

#include "melt/environment.h"
#include "melt/error.h"
#include "melt/run.h"
#include "require.h"

namespace melt {
namespace {

void check_options(const ModelOptions& options) {
  require(options.n_threads >= 1, "n_threads is 0: give at least 1 thread");
  require(options.n_threads <= 512, "n_threads is " + std::to_string(options.n_threads) + ": at most 512");
  require(options.n_batch >= 1, "n_batch is 0: give at least 1 token");
  require(options.n_ubatch >= 1, "n_ubatch is 0: give at least 1 token");
}

}  // namespace

LoadedModel::LoadedModel(const std::string& runtime_name, ModelOptions options)
    : options_(std::move(options)), runtime_(make_runtime(runtime_name)) {
  check_options(options_);
  options_.allocations = &allocations_;
  page_cache_ratio_ = melt::page_cache_ratio(options_.path);
  clock_ = runtime_->make_clock(options_);
  memory_before_load_ = read_memory_before();
  calibration_ = std::make_unique<ClockCalibration>(*clock_);
  start_wall_ns_ =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  calibration_->set_epoch(clock_->ticks());
  session_ = runtime_->load(options_, *clock_);
  load_phase_.run = kNone;
  load_phase_.phase = static_cast<std::uint16_t>(Phase::kLoad);
  load_phase_.duration_ns = calibration_->to_ns(clock_->ticks());
}

LoadedModel::~LoadedModel() = default;

void LoadedModel::unload() {
  const std::lock_guard<std::mutex> guard(in_use_);
  if (!session_)
    return;
  const std::lock_guard<std::shared_mutex> unloading(unloading_);
  const std::uint64_t begin = clock_->ticks();
  session_.reset();
  unload_phase_.run = kNone;
  unload_phase_.phase = static_cast<std::uint16_t>(Phase::kUnload);
  unload_phase_.start_ns = calibration_->to_ns(begin);
  unload_phase_.duration_ns = calibration_->span_ns(begin, clock_->ticks());
}

}  // namespace melt
