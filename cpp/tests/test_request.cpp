// SPDX-License-Identifier: Apache-2.0
// A profile as data, and what becomes of it.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "json_value.h"
#include "melt/error.h"
#include "melt/request.h"
#include "melt/trace_reader.h"
#include "run_options.h"
#include "scratch_dir.h"

using namespace melt;

namespace {

std::string refusal(const std::string& json) {
  try {
    parse_request(json);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    return error.what();
  }
  return "";
}

std::vector<std::uint8_t> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

JsonValue metadata_of(const TraceContents& trace, const std::string& key) {
  for (const TraceChunk& chunk : trace.chunks) {
    if (chunk.header.kind != static_cast<std::uint32_t>(ChunkKind::kMetadata))
      continue;
    const JsonValue json = parse_json(
        {reinterpret_cast<const char*>(chunk.payload), static_cast<std::size_t>(chunk.header.payload_bytes)});
    if (const JsonValue* value = json.find(key))
      return *value;
  }
  FAIL("no metadata ", key);
  return {};
}

}  // namespace

TEST_CASE("request: defaults are those of melt_core.profiling.ProfileRequest") {
  const ProfileRequest request = parse_request(R"({"model": "m.gguf", "n_threads": null, "output": "x"})");
  CHECK(request.runtime == "llama.cpp");
  CHECK(request.model.path == "m.gguf");
  CHECK(request.model.n_ctx == 2048);
  CHECK(request.model.n_batch == 2048);
  CHECK(request.model.n_ubatch == 512);
  CHECK(request.model.n_threads >= 1);
  CHECK(request.model.kv_type == "f16");
  CHECK(request.run.max_tokens == 128);
  CHECK(request.run.repeats == 3);
  CHECK(request.run.warmup == 1);
  CHECK(request.run.sampler.temperature == 0.0f);
  CHECK(request.run.sampler.top_k == 40);
  CHECK(request.run.sampler.top_p == doctest::Approx(0.95));
  CHECK(request.run.overhead_budget_s == 1.0);
  CHECK(request.levels == (kLevelTokens | kLevelOps));
  CHECK(request.limits.log_bytes == std::size_t{1} << 28);
  CHECK(request.sensors.names == std::vector<std::string>{"auto"});
  CHECK(request.sensors.rate_hz == 100.0);
  CHECK(request.run.idle_s == 0.0);
  CHECK_FALSE(request.run.marker);
  CHECK_FALSE(request.run.prompt_tokens);
}

TEST_CASE("request: every field arrives") {
  const ProfileRequest request = parse_request(
      R"({"model": "m", "runtime": "synthetic", "prompt": "p", "chat": true, "max_tokens": 5, "temperature": 0.5,
          "top_k": 3, "top_p": 0.25, "seed": 9, "ignore_eos": true, "repeats": 2, "warmup": 0,
          "levels": ["memory", "counters"], "sensors": ["none"], "sensor_hz": 5, "idle_s": 1.5, "marker": true, "prompt_tokens": 7,
          "runtime_path": "/lib/a", "model_lib": "b.so", "n_ctx": 64, "n_batch": 32, "n_ubatch": 16, "n_threads": 3,
          "use_mmap": false, "check_tensors": true, "repack": false, "kv_type": "q8_0", "overhead_budget_s": 0,
          "log_bytes": 4096, "watch_switches": false, "prompt_ids": [1, 2], "forced_ids": [3], "metadata": {"a": [1]}})");
  CHECK(request.runtime == "synthetic");
  CHECK(request.run.chat);
  CHECK(request.run.prompt == "p");
  CHECK(request.run.prompt_ids == std::vector<std::int32_t>{1, 2});
  CHECK(request.run.forced_ids == std::vector<std::int32_t>{3});
  CHECK(request.run.max_tokens == 5);
  CHECK(request.run.sampler.temperature == 0.5f);
  CHECK(request.run.sampler.top_k == 3);
  CHECK(request.run.sampler.top_p == 0.25f);
  CHECK(request.run.sampler.seed == 9);
  CHECK(request.run.ignore_eos);
  CHECK(request.run.repeats == 2);
  CHECK(request.run.warmup == 0);
  CHECK(request.levels == (kLevelMemory | kLevelCounters));
  CHECK(request.sensors.names.empty());
  CHECK(request.sensors.rate_hz == 5.0);
  CHECK(request.run.idle_s == 1.5);
  CHECK(request.run.marker);
  CHECK(request.run.prompt_tokens == 7);
  CHECK(request.model.runtime_path == "/lib/a");
  CHECK(request.model.model_lib == "b.so");
  CHECK(request.model.n_ctx == 64);
  CHECK(request.model.n_batch == 32);
  CHECK(request.model.n_ubatch == 16);
  CHECK(request.model.n_threads == 3);
  CHECK_FALSE(request.model.use_mmap);
  CHECK(request.model.check_tensors);
  CHECK_FALSE(request.model.repack);
  CHECK(request.model.kv_type == "q8_0");
  CHECK(request.limits.log_bytes == 4096);
  CHECK_FALSE(request.limits.watch_switches);
  CHECK(request.metadata_json == R"({"a": [1]})");
}

TEST_CASE("request: what cannot be is refused by name") {
  const auto says = [](const std::string& json, const std::string& text) {
    CAPTURE(json);
    CHECK(refusal(json).find(text) != std::string::npos);
  };
  says("[]", "no JSON object");
  says("{}", "names no model");
  says(R"({"model": ""})", "names no model");
  says(R"({"model": 1})", "model is 1");
  says(R"({"model": "m", "modle": 1})", "\"modle\"");
  says(R"({"model": "m", "max_tokens": -1})", "max_tokens is -1");
  says(R"({"model": "m", "max_tokens": 4294967296})", "max_tokens");
  says(R"({"model": "m", "repeats": 2.5})", "repeats");
  says(R"({"model": "m", "levels": "ops"})", "levels");
  says(R"({"model": "m", "levels": ["opps"]})", "opps");
  says(R"({"model": "m", "prompt_ids": [1, -1]})", "prompt_ids");
  says(R"({"model": "m", "metadata": []})", "metadata");
  says(R"({"model": "m", "overhead_budget_s": -1})", "overhead_budget_s");
  says(R"({"model": "m", "idle_s": -1})", "idle_s");
  says(R"({"model": "m", "max_tokens": 0})", "max_tokens is 0");
  says(R"({"model": "m", "idle_s": 601})", "idling of 601 s: give 0 to 600 (idle_s)");
  says(R"({"model": "m", "sensors": "auto"})", "sensors");
  says(R"({"model": "m", "chat": true})", "chat");
  says(R"({"model": "m", "log_bytes": 1e3})", "log_bytes");
}

TEST_CASE("request: executed, it leaves a whole trace with the metadata of both sides") {
  const melt_test::ScratchDir scratch;
  const ProfileRequest request = parse_request(
      R"({"model": "layers=2,op_ns=20000", "runtime": "synthetic", "prompt_tokens": 6, "max_tokens": 4, "repeats": 2,
          "n_threads": 1, "n_ctx": 32, "overhead_budget_s": 0, "metadata": {"who": "host", "a": 1}})");
  LoadedModel model(request.runtime, request.model);
  ProfileHooks hooks;
  hooks.metadata_json = R"({"who": "agent"})";
  std::vector<std::uint32_t> tokens;
  hooks.on_repetition = [&](std::uint32_t, std::uint32_t, const Profiler& profiler) {
    tokens.push_back(profiler.tokens_written());
  };
  const RunResult result = profile_to_file(model, request, scratch.path() + "/t.melt", hooks);
  CHECK(result.prompt_ids == random_token_ids(0, 256, 6));
  CHECK(tokens == std::vector<std::uint32_t>{0, 4, 8, 12});
  CHECK_FALSE(model.loaded());

  const std::vector<std::uint8_t> bytes = bytes_of(scratch.path() + "/t.melt");
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  CHECK(trace.complete);
  CHECK(records_of<RunRecord>(trace, ChunkKind::kRuns).size() == 3);
  CHECK(metadata_of(trace, "who").as_string("who") == "agent");
  CHECK(metadata_of(trace, "a").as_integer("a", 1, 1) == 1);
}

TEST_CASE("request: a prompt that the context cannot hold is refused before the run") {
  const melt_test::ScratchDir scratch;
  const ProfileRequest request = parse_request(
      R"({"model": "layers=1", "runtime": "synthetic", "prompt_tokens": 32, "n_ctx": 32, "n_threads": 1})");
  LoadedModel model(request.runtime, request.model);
  CHECK_THROWS_AS(profile_to_file(model, request, scratch.path() + "/t.melt", {}), Error);
}
