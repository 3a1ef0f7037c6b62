// SPDX-License-Identifier: Apache-2.0
#include "melt/request.h"

#include <algorithm>
#include <iterator>

#include "json.h"
#include "json_value.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "require.h"
#include "run_options.h"

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
  std::uint32_t mask = 0;
  for (const JsonValue& level : json.as_array("levels")) {
    const std::string& name = level.as_string("a level");
    const auto* known = std::find_if(std::begin(kLevelNames), std::end(kLevelNames),
                                     [&](const LevelName& each) { return each.name == name; });
    require(known != std::end(kLevelNames), "unknown level \"" + name + "\": choose from " + level_list());
    mask |= known->level;
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
  fields.take("chat", run.chat);
  fields.take("prompt_tokens", run.prompt_tokens);
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
  fields.take("idle_s", run.idle_s);
  fields.take("marker", run.marker);
}

/// "auto" stands for all sensors there are, "none" alone for none; the core refuses names that it does not know.
void take_sensors(Fields& fields, ProfileRequest& request) {
  std::vector<std::string>& names = request.sensors.names;
  names = {"auto"};
  fields.take("sensors", names);
  fields.take("sensor_hz", request.sensors.rate_hz);
  if (names == std::vector<std::string>{"none"})
    names.clear();
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

}  // namespace

ProfileRequest parse_request(const std::string& json) {
  const JsonValue object = parse_json(json);
  Fields fields(object);
  ProfileRequest request;
  take_model(fields, request);
  take_run(fields, request);
  take_sensors(fields, request);
  fields.take("log_bytes", request.limits.log_bytes);
  fields.take("watch_switches", request.limits.watch_switches);
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
  check_options(request.run);
  if (request.run.chat && !object.find("prompt"))
    throw Error(ErrorKind::kInvalidArgument, "chat needs a prompt");
  return request;
}

RunResult profile_to_file(LoadedModel& model, const ProfileRequest& request, const std::string& trace_path,
                          const ProfileHooks& hooks) {
  const std::unique_ptr<ByteSink> sink = make_file_sink(trace_path, hooks.flush);
  const std::string metadata = merged(request.metadata_json, hooks.metadata_json);
  Profiler profiler(model, *sink, request.levels, metadata, request.limits, request.sensors);
  const auto report = [&](std::uint32_t done, std::uint32_t total) {
    if (hooks.on_repetition)
      hooks.on_repetition(done, total, profiler);
  };
  RunResult result;
  try {
    result = profiler.run(request.run, report);
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

}  // namespace melt
