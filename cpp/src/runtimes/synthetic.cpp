// SPDX-License-Identifier: Apache-2.0
#include "runtimes/synthetic.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <thread>

#include "melt/error.h"
#include "runtimes/runtimes.h"

namespace melt {
namespace {

constexpr std::uint32_t kVocabulary = 256;  // a token is a byte
constexpr std::int32_t kEndOfText = 0;
constexpr std::int64_t kMaxBufferBytes = std::int64_t{1} << 30;
constexpr std::int64_t kMaxKvBytes = 1024;
constexpr std::int64_t kStartNs = 1'000;  // in which all threads have left the first barrier

class ByteText final : public TextCodec {
 public:
  std::vector<std::int32_t> encode(std::string_view text, bool, bool) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text)
      ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>& ids) const override {
    std::string text;
    for (const std::int32_t id : ids)
      text += static_cast<char>(id);
    return text;
  }
  std::string format_chat(const std::vector<ChatMessage>& messages) const override {
    std::string text;
    for (const ChatMessage& message : messages)
      text += message.role + ": " + message.content + "\n";
    return text + "assistant: ";
  }
  bool is_end_of_text(std::int32_t id) const override { return id == kEndOfText; }
};

/// Lets `n` threads meet, by spinning: sleeping would blur the durations.
class Barrier {
 public:
  explicit Barrier(unsigned n) : n_(n) {}
  /// Each thread gives the time at which it was done; all get the latest, which need not be that of the last to come.
  std::int64_t meet(std::int64_t time) {
    const unsigned round = round_.load();
    std::int64_t latest = latest_.load();
    while (latest < time && !latest_.compare_exchange_weak(latest, time)) {
    }
    if (arrived_.fetch_add(1) + 1 == n_) {
      met_at_ = latest_.load();
      arrived_.store(0);
      round_.fetch_add(1);
    } else {
      while (round_.load() == round) {
      }
    }
    return met_at_;
  }

 private:
  const unsigned n_;
  std::atomic<unsigned> arrived_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<std::int64_t> latest_{0};
  std::int64_t met_at_ = 0;  // written before round_ is, read after
};

class SyntheticOps final : public OpSource {
 public:
  SyntheticOps(const SyntheticModel& model, unsigned n_threads) : model_(model), n_threads_(n_threads) {}
  void start(OpRecorder& recorder) noexcept override { recorder_ = &recorder; }
  void stop() noexcept override { recorder_ = nullptr; }
  void clear(std::size_t) override {}
  std::size_t groups_hint() const noexcept override { return model_.groups_per_graph(); }
  std::vector<OpDefinition> describe(std::uint32_t slot, const std::vector<NodeRange>& groups) const override;
  /// Only the caller stays the same thread: the others are made for each graph.
  bool on_each_thread(void (*work)(void* user, unsigned thread), void* user) override {
    if (n_threads_ != 1)
      return false;
    work(user, 0);
    return true;
  }
  OpRecorder* recorder() const noexcept { return recorder_; }

 private:
  const SyntheticModel& model_;
  unsigned n_threads_;
  OpRecorder* recorder_ = nullptr;
};

std::vector<OpDefinition> SyntheticOps::describe(std::uint32_t, const std::vector<NodeRange>& groups) const {
  std::vector<OpDefinition> definitions;
  for (const auto& [first, last] : groups) {
    OpDefinition definition{};
    const std::uint32_t layer = first / 4;
    const bool head = layer == model_.layers;
    const bool norm = first % 4 == 0 && !head;
    const bool product = first % 4 == 2 || head;
    definition.node = first;
    definition.layer = head ? -1 : static_cast<std::int32_t>(layer);
    definition.n_fused = last - first + 1;
    definition.flops = definition.bytes_read = definition.bytes_written = std::nan("");
    set_text(definition.op, head ? "output" : (norm ? "norm-" : product ? "ffn-" : "l_out-") + std::to_string(layer));
    set_text(definition.op_type, norm ? "RMS_NORM+MUL" : product ? "MUL_MAT" : "ADD");
    set_text(definition.module, head ? "lm_head" : norm ? "norm" : product ? "ffn" : "residual");
    set_text(definition.backend, "CPU");
    set_text(definition.buffer, "none");
    set_text(definition.dtype, "f32");
    for (std::int64_t& extent : definition.shape)
      extent = 1;
    definitions.push_back(definition);
  }
  return definitions;
}

class SyntheticSession final : public Session, public OpTruthLog {
 public:
  SyntheticSession(const SyntheticModel& model, const ModelOptions& options, Clock& clock)
      : model_(model), options_(options), clock_(clock), ops_(model_, options.n_threads), truth_(options.n_threads) {
    for (std::vector<OpTruth>& ops : truth_)
      ops.reserve(model_.log_ops);
    info_.name = "synthetic";
    info_.architecture = "synthetic";
    info_.quantization = "none";
    info_.n_layer = model_.layers;
    info_.n_vocab = kVocabulary;
    info_.n_ctx = info_.n_ctx_train = options.n_ctx == 0 ? 4096 : options.n_ctx;
    info_.n_batch = options.n_batch;
    allocate(MemoryCategory::kWeights, model_.weights_bytes);
    allocate(MemoryCategory::kKv, model_.kv_bytes * info_.n_ctx);
    allocate(MemoryCategory::kCompute, model_.compute_bytes);
    allocate(MemoryCategory::kOutput, kVocabulary * sizeof(float));
  }

  ~SyntheticSession() override {
    for (const Buffer& buffer : buffers_)
      options_.allocations->released(buffer.id, clock_.ticks());
  }

  const ModelInfo& info() const noexcept override { return info_; }
  const TextCodec& text() const noexcept override { return text_; }
  OpSource* ops() noexcept override { return &ops_; }
  const std::vector<OpTruth>& ops_of(std::uint32_t thread) const override { return truth_.at(thread); }

  void reset(const SamplerOptions& sampler) override {
    n_past_ = 0;
    state_ = sampler.seed;
  }

  EvalStatus evaluate(const std::int32_t* ids, std::size_t n) override {
    if (n == 0 || n > info_.n_batch) {
      throw Error(ErrorKind::kInvalidArgument, std::to_string(n) + " tokens in one evaluation: 1 to n_batch = " +
                                                   std::to_string(info_.n_batch) + " are possible");
    }
    if (n > info_.n_ctx - n_past_)
      return EvalStatus::kContextFull;
    if (++n_evaluations_ == model_.fail_at)
      throw Error(ErrorKind::kRuntime, "synthetic failure, as described");
    for (std::size_t i = 0; i < n; ++i)
      state_ = state_ * 31 + static_cast<std::uint32_t>(ids[i]);
    model_.simulated_clock ? run_simulated(n) : run_on_host(n);
    n_past_ += static_cast<std::uint32_t>(n);
    return cancelled() ? EvalStatus::kCancelled : EvalStatus::kOk;
  }

  std::int32_t sample() override { return static_cast<std::int32_t>(1 + (state_ >> 7) % (kVocabulary - 1)); }

 private:
  struct Buffer {
    std::vector<char> bytes;
    std::uint32_t id;
  };

  void allocate(MemoryCategory category, std::uint64_t size) {
    if (options_.allocations == nullptr)
      return;
    buffers_.push_back({std::vector<char>(size), kNone});
    BufferInfo info;
    info.bytes = size;
    info.address = buffers_.back().bytes.data();
    info.category = category;
    info.backend = "CPU";
    info.type = "synthetic";
    buffers_.back().id = options_.allocations->allocated(std::move(info), clock_.ticks());
  }

  bool cancelled() const { return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed); }

  void stamp(melt_thread_stamps& stamps, std::uint64_t ticks, std::uint32_t group) const noexcept {
    const NodeRange nodes = model_.nodes(group);
    melt_stamp_group(&stamps, ticks, 0, nodes.first, nodes.second);
  }

  void run_simulated(std::size_t n_tokens) {
    auto& clock = static_cast<SimulatedClock&>(clock_);
    OpRecorder* recorder = ops_.recorder();
    const std::uint64_t begin_ticks = clock.ticks();
    if (recorder != nullptr) {
      recorder->graph_begin(0);
      for (unsigned i = 0; i < options_.n_threads; ++i)
        recorder->thread_stamps()[i].thread_begin = clock.ticks();
    }
    for (std::uint32_t group = 0; group < model_.groups_per_graph() && !cancelled(); ++group) {
      std::int64_t longest = 0;
      for (std::uint32_t thread = 0; thread < options_.n_threads; ++thread) {
        const std::int64_t duration = model_.duration_ns(group, thread, n_tokens);
        longest = std::max(longest, duration);
        if (recorder != nullptr) {
          stamp(recorder->thread_stamps()[thread], clock.ticks() + static_cast<std::uint64_t>(duration), group);
        }
      }
      clock.advance_ns(longest);
    }
    if (recorder != nullptr) {
      recorder->thread_stamps()[0].thread_end = clock.ticks();
      recorder->graph_end(options_.n_threads, begin_ticks, clock.ticks(), cancelled());
    }
  }

  void run_on_host(std::size_t n_tokens) {
    OpRecorder* recorder = ops_.recorder();
    Barrier barrier(options_.n_threads);
    std::atomic<bool> stop{false};
    std::uint64_t begin_ticks = 0;
    // A group begins when the last thread has ended the one before: what the barrier costs does not add to an op.
    const auto work = [&](std::uint32_t thread) {
      // Copies, as in ggml's node loop: while a thread stamps, none of its cache lines goes to a neighbour.
      melt_thread_stamps stamps = recorder != nullptr ? recorder->thread_stamps()[thread] : melt_thread_stamps{};
      std::vector<OpTruth> truth = std::move(truth_[thread]);
      std::int64_t start = barrier.meet(clock_.steady_ns()) + kStartNs;
      std::int64_t begun = 0;
      std::int64_t start_slack = 0;
      // Reads in every turn, and the last counts: what a reading needs is in the caches when it does.
      do {
        if (stamps.counters != nullptr) {
          stamps.counters->count = 0;
          melt_count(stamps.counters);
        }
        begun = clock_.steady_ns();
        stamps.thread_begin = clock_.ticks();
        start_slack = clock_.steady_ns() - begun;
      } while (begun < start);
      if (thread == 0)
        begin_ticks = stamps.thread_begin;
      for (std::uint32_t group = 0; group < model_.groups_per_graph() && !stop.load(); ++group) {
        const std::int64_t end = start + model_.duration_ns(group, thread, n_tokens);
        const melt_thread_stamps before = stamps;
        std::int64_t now = 0;
        std::int64_t stamped = 0;
        do {  // likewise
          stamps = before;
          now = clock_.steady_ns();
          if (recorder != nullptr)
            stamp(stamps, clock_.ticks(), group);
          stamped = clock_.steady_ns();
        } while (now < end);
        if (truth.size() < model_.log_ops)
          truth.push_back({now - begun, stamped - now, start_slack});
        start_slack = 0;
        if (thread == 0 && cancelled())
          stop.store(true);
        begun = start = barrier.meet(now);
        if (stamps.counters != nullptr)
          melt_count(stamps.counters);
      }
      stamps.thread_end = clock_.ticks();
      truth_[thread] = std::move(truth);
      if (recorder != nullptr)
        recorder->thread_stamps()[thread] = stamps;
    };
    if (recorder != nullptr)
      recorder->graph_begin(0);
    std::vector<std::thread> workers;
    for (std::uint32_t i = 1; i < options_.n_threads; ++i)
      workers.emplace_back(work, i);
    work(0);
    const std::uint64_t end_ticks = clock_.ticks();
    for (std::thread& worker : workers)
      worker.join();
    if (recorder != nullptr)
      recorder->graph_end(options_.n_threads, begin_ticks, end_ticks, cancelled());
  }

  SyntheticModel model_;
  ModelOptions options_;
  Clock& clock_;
  SyntheticOps ops_;
  std::vector<std::vector<OpTruth>> truth_;  // of each thread
  ModelInfo info_;
  ByteText text_;
  std::vector<Buffer> buffers_;
  std::uint32_t n_past_ = 0;
  std::uint32_t n_evaluations_ = 0;
  std::uint32_t state_ = 0;
};

class SyntheticRuntime final : public Runtime {
 public:
  std::string name() const override { return "synthetic"; }
  std::vector<std::pair<std::string, std::string>> details() const override { return {}; }
  std::unique_ptr<Clock> make_clock(const ModelOptions& options) const override {
    if (SyntheticModel::parse(options.path).simulated_clock)
      return std::make_unique<SimulatedClock>();
    return make_host_clock();
  }
  std::unique_ptr<Session> load(const ModelOptions& options, Clock& clock) const override {
    return std::make_unique<SyntheticSession>(SyntheticModel::parse(options.path), options, clock);
  }
  MemoryForecast predict_memory(const ModelOptions&) const override {
    throw Error(ErrorKind::kInvalidArgument, "the synthetic runtime has no buffers: predict the memory of a GGUF file");
  }
  std::unique_ptr<TextCodec> load_text(const std::string&) const override { return std::make_unique<ByteText>(); }
};

}  // namespace

SyntheticModel SyntheticModel::parse(const std::string& description) {
  SyntheticModel model;
  for (std::size_t begin = 0; begin < description.size();) {
    const std::size_t end = std::min(description.find(',', begin), description.size());
    const std::string pair = description.substr(begin, end - begin);
    const std::string key = pair.substr(0, pair.find('='));
    const std::string value = pair.size() > key.size() ? pair.substr(key.size() + 1) : "";
    std::int64_t number = -1;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), number);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == value.data() + value.size();
    const auto in = [&](std::int64_t low, std::int64_t high) { return is_number && number >= low && number <= high; };
    if (key == "layers" && in(1, 100'000)) {
      model.layers = static_cast<std::uint32_t>(number);
    } else if (key == "op_ns" && in(10, 10'000'000'000)) {
      model.op_ns = number;
    } else if (key == "skew" && in(0, 90)) {
      model.skew = static_cast<std::uint32_t>(number);
    } else if (key == "log_ops" && in(0, 10'000'000)) {
      model.log_ops = static_cast<std::uint32_t>(number);
    } else if (key == "fail_at" && in(0, UINT32_MAX)) {
      model.fail_at = static_cast<std::uint32_t>(number);
    } else if (key == "weights_bytes" && in(0, kMaxBufferBytes)) {
      model.weights_bytes = static_cast<std::uint64_t>(number);
    } else if (key == "kv_bytes" && in(0, kMaxKvBytes)) {
      model.kv_bytes = static_cast<std::uint64_t>(number);
    } else if (key == "compute_bytes" && in(0, kMaxBufferBytes)) {
      model.compute_bytes = static_cast<std::uint64_t>(number);
    } else if (key == "clock" && (value == "simulated" || value == "host")) {
      model.simulated_clock = value == "simulated";
    } else {
      throw Error(ErrorKind::kModel, "synthetic model description: \"" + pair +
                                         "\" is not one of layers, op_ns, skew, log_ops, fail_at, weights_bytes, "
                                         "kv_bytes, compute_bytes with a number in range, or "
                                         "clock=simulated|host");
    }
    begin = end + 1;
  }
  return model;
}

std::int64_t SyntheticModel::duration_ns(std::uint32_t group, std::uint32_t thread, std::size_t n_tokens) const {
  const std::uint32_t kind = group == layers * 3 ? 1 : group % 3;
  const std::int64_t divisor = kind == 0 ? 10 : kind == 1 ? 1 : 5;
  const std::int64_t percent = std::max<std::int64_t>(100 - static_cast<std::int64_t>(skew) * thread, 10);
  return op_ns / divisor * percent / 100 * static_cast<std::int64_t>(n_tokens);
}

NodeRange SyntheticModel::nodes(std::uint32_t group) const {
  const std::uint32_t first = group / 3 * 4 + (group % 3 == 0 ? 0 : group % 3 + 1);
  const bool fused = group % 3 == 0 && group != layers * 3;
  return {first, fused ? first + 1 : first};
}

const OpTruthLog& op_truth_log(const Session& session) {
  const auto* log = dynamic_cast<const OpTruthLog*>(&session);
  if (log == nullptr)
    throw Error(ErrorKind::kInvalidArgument, "only a session of the synthetic runtime knows what its ops really took");
  return *log;
}

std::unique_ptr<Runtime> make_synthetic_runtime() {
  return std::make_unique<SyntheticRuntime>();
}

}  // namespace melt
