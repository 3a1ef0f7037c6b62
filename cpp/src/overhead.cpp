// SPDX-License-Identifier: Apache-2.0
#include "overhead.h"

#include <algorithm>
#include <random>

#include "repetition.h"

namespace melt {
namespace {

constexpr std::size_t kMinPairs = 5;    // what an interval needs...
constexpr int kBudgetsForMinPairs = 5;  // ...unless it would take so many times the budget
constexpr std::size_t kMaxPairs = 1000;

class OverheadMeasurement {
 public:
  OverheadMeasurement(LoadedModel& model, OpRecorder& recorder, const std::vector<std::int32_t>& prompt,
                      const RunOptions& run)
      : model_(model),
        recorder_(recorder),
        prompt_(prompt),
        run_(run),
        random_(run.sampler.seed),
        window_(std::min<std::size_t>(model.session().info().n_ctx - prompt.size(),
                                      std::max<std::size_t>(run.max_tokens, 2))),
        extent_(run_extent(model.options(), model.session().info(), prompt.size(), window_)) {}

  OverheadResult measure() {
    collect(Phase::kPrefill, [&] { return time_prefill(); });
    if (interrupted()) {
      // what it would take to go on has not been evaluated
    } else if (window_ < 2) {
      result_.note += "decode not measured: the prompt fills the context; ";
    } else {
      std::size_t position = window_;  // makes the first decode pair prefill
      collect(Phase::kDecode, [&] {
        if (position + 1 > window_) {
          time_prefill();
          position = 0;
        }
        if (stopped_)
          return std::int64_t{0};  // there are no logits; the pair is thrown away
        ++position;
        const std::int32_t id = model_.session().sample();
        return timed([&] { return model_.session().evaluate(&id, 1); });
      });
    }
    return std::move(result_);
  }

 private:
  std::uint64_t now() const { return model_.clock().ticks(); }
  bool interrupted() const {
    const std::atomic<bool>* flag = model_.options().cancel;
    return stopped_ || (flag != nullptr && flag->load());
  }

  template <typename Work>
  std::int64_t timed(const Work& work) {
    const std::uint64_t begin = now();
    stopped_ |= work() != EvalStatus::kOk;
    return model_.calibration().span_ns(begin, now());
  }

  std::int64_t time_prefill() {
    model_.session().reset(run_.sampler);
    model_.session().ops()->clear(extent_.n_topologies());  // the runtime builds new graphs from here on
    const std::size_t n_batch = model_.session().info().n_batch;
    return timed([&] {
      EvalStatus status = EvalStatus::kOk;
      for (std::size_t done = 0; done < prompt_.size() && status == EvalStatus::kOk; done += n_batch) {
        status = model_.session().evaluate(prompt_.data() + done, std::min(n_batch, prompt_.size() - done));
      }
      return status;
    });
  }

  template <typename Work>
  std::int64_t recorded(const Work& work) {
    const std::size_t groups = std::max(recorder_.max_groups_seen(), model_.session().ops()->groups_hint());
    recorder_.begin_run(extent_.n_prefill_graphs + 1, groups);
    const RecordingScope recording(model_.session().ops(), recorder_);
    return work();
  }

  template <typename Work>
  void collect(Phase phase, const Work& work) {
    const auto budget_ns = static_cast<std::int64_t>(run_.overhead_budget_s * 1e9);
    const std::uint64_t begin = now();
    for (std::size_t pairs = 0; pairs < kMaxPairs; ++pairs) {
      const std::int64_t spent_ns = model_.calibration().span_ns(begin, now());
      if (spent_ns > (pairs < kMinPairs ? kBudgetsForMinPairs * budget_ns : budget_ns))
        break;
      OverheadRecord record{};
      record.phase = static_cast<std::uint16_t>(phase);
      record.n_tokens = phase == Phase::kPrefill ? static_cast<std::uint32_t>(prompt_.size()) : 1;
      record.on_first = static_cast<std::uint16_t>(random_() & 1u);
      if (record.on_first != 0)
        record.on_ns = recorded(work);
      record.off_ns = work();
      if (record.on_first == 0)
        record.on_ns = recorded(work);
      if (interrupted()) {
        result_.note += "cut off by a cancel; ";
        return;
      }
      result_.pairs.push_back(record);
    }
  }

  LoadedModel& model_;
  OpRecorder& recorder_;
  const std::vector<std::int32_t>& prompt_;
  const RunOptions& run_;
  std::mt19937 random_;
  std::size_t window_;  // decode steps before the next prefill
  RunExtent extent_;
  bool stopped_ = false;
  OverheadResult result_;
};

}  // namespace

OverheadResult measure_overhead(LoadedModel& model, OpRecorder& recorder, const std::vector<std::int32_t>& prompt,
                                const RunOptions& run) {
  if (run.overhead_budget_s <= 0.0)
    return {{}, "not measured: the overhead budget is 0 s"};
  return OverheadMeasurement(model, recorder, prompt, run).measure();
}

}  // namespace melt
