// SPDX-License-Identifier: Apache-2.0
#include "melt/request.h"

#include <algorithm>
#include <array>
#include <random>

#include "json.h"
#include "json_value.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "require.h"

namespace melt {
namespace {

constexpr std::int64_t kMaxNumber = 0x7fffffff;

// One overload per type of field: `value` is written only if the request has the field.
void read(const JsonValue& json, const std::string& name, bool& value) {
  value = json.as_bool(name);
}
void read(const JsonValue& json, const std::string& name, std::string& value) {
  value = json.as_string(name);
}
void read(const JsonValue& json, const std::string& name, std::uint32_t& value) {
  value = static_cast<std::uint32_t>(json.as_integer(name, 0, kMaxNumber));
}
void read(const JsonValue& json, const std::string& name, std::int32_t& value) {
  value = static_cast<std::int32_t>(json.as_integer(name, 0, kMaxNumber));
}
void read(const JsonValue& json, const std::string& name, std::size_t& value) {
  value = static_cast<std::size_t>(json.as_integer(name, 0, std::int64_t{1} << 40));
}
void read(const JsonValue& json, const std::string& name, float& value) {
  value = static_cast<float>(json.as_number(name));
}
void read(const JsonValue& json, const std::string& name, double& value) {
  value = json.as_number(name);
}
void read(const JsonValue& json, const std::string& name, std::vector<std::int32_t>& value) {
  value.clear();
  for (const JsonValue& id : json.as_array(name))
    value.push_back(static_cast<std::int32_t>(id.as_integer("a token id in " + name, 0, kMaxNumber)));
}
void read(const JsonValue& json, const std::string& name, std::vector<std::string>& value) {
  value.clear();
  for (const JsonValue& item : json.as_array(name))
    value.push_back(item.as_string("a name in " + name));
}
template <typename T>
void read(const JsonValue& json, const std::string& name, std::optional<T>& value) {
  read(json, name, value.emplace());
}

std::uint32_t level_mask(const JsonValue& json) {
  static constexpr std::pair<const char*, std::uint32_t> kLevels[] = {
      {"tokens", kLevelTokens}, {"ops", kLevelOps}, {"memory", kLevelMemory}, {"counters", kLevelCounters}};
  std::uint32_t mask = 0;
  for (const JsonValue& level : json.as_array("levels")) {
    const std::string& name = level.as_string("a level");
    const auto* found =
        std::find_if(std::begin(kLevels), std::end(kLevels), [&](const auto& known) { return known.first == name; });
    if (found == std::end(kLevels))
      throw Error(ErrorKind::kInvalidArgument,
                  "unknown level \"" + name + "\": choose from tokens, ops, memory, counters");
    mask |= found->second;
  }
  return mask;
}

/// Takes the fields of an object one by one, and refuses those that nobody took.
class Fields {
 public:
  explicit Fields(const JsonValue& object) : object_(object) {
    if (!object.is_object())
      throw Error(ErrorKind::kInvalidArgument, "the request is no JSON object");
  }

  const JsonValue* take(const std::string& name) {
    known_.push_back(name);
    return object_.find(name);
  }

  template <typename T>
  void take(const std::string& name, T& value) {
    if (const JsonValue* json = take(name))
      read(*json, name, value);
  }

  void finish() const {
    for (const std::string& key : object_.keys()) {
      if (std::find(known_.begin(), known_.end(), key) == known_.end())
        throw Error(ErrorKind::kInvalidArgument,
                    "the request has a field " + json_string(key) + " that this version does not know");
    }
  }

 private:
  const JsonValue& object_;
  std::vector<std::string> known_;
};

void take_model(Fields& fields, ProfileRequest& request) {
  ModelOptions& model = request.model;
  fields.take("runtime", request.runtime);
  fields.take("model", model.path);
  fields.take("n_ctx", model.n_ctx);
  fields.take("n_batch", model.n_batch);
  fields.take("n_ubatch", model.n_ubatch);
  model.n_threads = default_thread_count();
  fields.take("n_threads", model.n_threads);
  fields.take("use_mmap", model.use_mmap);
  fields.take("check_tensors", model.check_tensors);
  fields.take("repack", model.repack);
  fields.take("kv_type", model.kv_type);
  fields.take("runtime_path", model.runtime_path);
  fields.take("model_lib", model.model_lib);
}

void take_run(Fields& fields, ProfileRequest& request) {
  RunOptions& run = request.run;
  run.repeats = 3;
  fields.take("prompt", run.prompt);
  fields.take("chat", request.chat);
  fields.take("prompt_tokens", request.prompt_tokens);
  fields.take("prompt_ids", run.prompt_ids);
  fields.take("forced_ids", run.forced_ids);
  fields.take("keep_logits", run.keep_logits);
  fields.take("max_tokens", run.max_tokens);
  fields.take("temperature", run.sampler.temperature);
  fields.take("top_k", run.sampler.top_k);
  fields.take("top_p", run.sampler.top_p);
  fields.take("seed", run.sampler.seed);
  fields.take("ignore_eos", run.ignore_eos);
  fields.take("repeats", run.repeats);
  fields.take("warmup", run.warmup);
  fields.take("overhead_budget_s", run.overhead_budget_s);
}

/// "auto" stands for all sensors there are, "none" alone for none; the core refuses names that it does not know.
void take_sensors(Fields& fields, ProfileRequest& request) {
  std::vector<std::string>& names = request.sensors.names;
  names = {"auto"};
  fields.take("sensors", names);
  fields.take("sensor_hz", request.sensors.rate_hz);
  fields.take("idle_s", request.idle_s);
  fields.take("marker", request.marker);
  if (names == std::vector<std::string>{"none"})
    names.clear();
  if (request.idle_s < 0 || request.idle_s > kMaxIdleS)
    throw Error(ErrorKind::kInvalidArgument, "idle_s must lie in 0 to " + short_text(kMaxIdleS));
}

/// The prompt in the form that the run takes, now that there is a model.
void resolve_prompt(const ProfileRequest& request, const Session& session, RunOptions& run) {
  if (!run.prompt_ids.empty())
    return;
  if (request.prompt_tokens) {
    const ModelInfo& info = session.info();
    const std::uint32_t n = *request.prompt_tokens;
    if (n < 1 || n >= info.n_ctx)
      throw Error(ErrorKind::kInvalidArgument, "a prompt of " + std::to_string(n) +
                                                   " tokens: this context takes 1 to " +
                                                   std::to_string(info.n_ctx - 1) + " (n_ctx sets its length)");
    run.prompt_ids = random_token_ids(run.sampler.seed, info.n_vocab, n);
    run.ignore_eos = true;
  } else if (request.chat) {
    run.prompt = session.text().format_chat({{"user", run.prompt}});
  }
}

/// One object with the members of both; those of `over` win.
std::string merged(const std::string& under, const std::string& over) {
  const JsonValue first = parse_json(under), second = parse_json(over);
  JsonObject both;
  for (std::size_t i = 0; i < first.keys().size(); ++i) {
    const auto& keys = second.keys();
    if (std::find(keys.begin(), keys.end(), first.keys()[i]) == keys.end())
      both.add_raw(first.keys()[i].c_str(), first.values()[i].str());
  }
  for (std::size_t i = 0; i < second.keys().size(); ++i)
    both.add_raw(second.keys()[i].c_str(), second.values()[i].str());
  return both.str();
}

/// Fills the state of a std::mt19937 as CPython's init_by_array does (Matsumoto and Nishimura, mt19937ar.c), with one
/// key word, so that both draw the same numbers.
class OneWordSeed {
 public:
  using result_type = std::uint32_t;
  explicit OneWordSeed(std::uint32_t key) : key_(key) {}

  template <typename Iterator>
  void generate(Iterator begin, Iterator end) {
    constexpr std::size_t kN = std::mt19937::state_size;
    std::array<std::uint32_t, kN> mt{};
    mt[0] = 19650218U;
    for (std::size_t i = 1; i < kN; ++i)
      mt[i] = 1812433253U * (mt[i - 1] ^ (mt[i - 1] >> 30)) + static_cast<std::uint32_t>(i);
    std::size_t i = 1;
    const auto step = [&] {
      if (++i >= kN) {
        mt[0] = mt[kN - 1];
        i = 1;
      }
    };
    for (std::size_t k = 0; k < kN; ++k, step())
      mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525U)) + key_;
    for (std::size_t k = 0; k + 1 < kN; ++k, step())
      mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941U)) - static_cast<std::uint32_t>(i);
    mt[0] = 0x80000000U;
    std::copy_n(mt.begin(), std::min<std::size_t>(kN, static_cast<std::size_t>(end - begin)), begin);
  }

 private:
  std::uint32_t key_;
};

}  // namespace

ProfileRequest parse_request(const std::string& json) {
  const JsonValue object = parse_json(json);
  Fields fields(object);
  ProfileRequest request;
  take_model(fields, request);
  take_run(fields, request);
  take_sensors(fields, request);
  fields.take("log_bytes", request.limits.log_bytes);
  if (const JsonValue* levels = fields.take("levels"))
    request.levels = level_mask(*levels);
  if (const JsonValue* metadata = fields.take("metadata")) {
    if (!metadata->is_object())
      throw Error(ErrorKind::kInvalidArgument, "metadata is no JSON object");
    request.metadata_json = metadata->str();
  }
  fields.take("output");
  fields.finish();
  if (request.model.path.empty())
    throw Error(ErrorKind::kInvalidArgument, "the request names no model");
  if (request.run.overhead_budget_s < 0 || request.run.overhead_budget_s > 3600)
    throw Error(ErrorKind::kInvalidArgument, "overhead_budget_s must lie in 0 to 3600");
  if (request.chat && !object.find("prompt"))
    throw Error(ErrorKind::kInvalidArgument, "chat needs a prompt");
  return request;
}

RunResult profile_to_file(LoadedModel& model, const ProfileRequest& request, const std::string& trace_path,
                          const ProfileHooks& hooks) {
  RunOptions run = request.run;
  resolve_prompt(request, model.session(), run);
  const std::unique_ptr<ByteSink> sink = make_file_sink(trace_path, hooks.flush);
  const std::string metadata = merged(request.metadata_json, hooks.metadata_json);
  Profiler profiler(model, *sink, request.levels, metadata, request.limits, request.sensors);
  const auto report = [&](std::uint32_t done, std::uint32_t total) {
    if (hooks.on_repetition)
      hooks.on_repetition(done, total, profiler);
  };
  RunResult result;
  try {
    if (request.marker)
      profiler.mark();
    if (request.idle_s > 0)
      profiler.sample_idle(request.idle_s);
    result = profiler.run(run, report);
    if (request.idle_s > 0)
      profiler.sample_idle(request.idle_s);
    if (request.marker && !result.cancelled)
      profiler.mark();
  } catch (...) {
    if (hooks.unload)
      model.unload();
    try {
      profiler.finish();
    } catch (const Error&) {  // the disk is full: the first error says so, and what was flushed stays readable
    }
    throw;
  }
  if (hooks.unload)
    model.unload();
  profiler.finish();
  return result;
}

std::vector<std::int32_t> random_token_ids(std::uint32_t seed, std::uint32_t n_vocab, std::uint32_t n) {
  OneWordSeed words(seed);
  std::mt19937 draw(words);
  int bits = 0;
  while (bits < 32 && (n_vocab >> bits) != 0)
    ++bits;
  std::vector<std::int32_t> ids;
  ids.reserve(n);
  while (ids.size() < n) {
    const std::uint32_t id = static_cast<std::uint32_t>(draw()) >> (32 - bits);
    if (id < n_vocab)
      ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace melt
