// SPDX-License-Identifier: Apache-2.0
// Stock llama.cpp against melt_core's build, hooks off and on, step by step in one process in random order.
// usage: overhead MODEL N_THREADS ROUNDS N_PROMPT SEED NAME=LIBRARY[:on] ...
// Two names of one library share a session; all sessions share large blocks of memory (same_memory.h).
// Prints a line of JSON: for each name the step times in ns, prefill and decode; of a step as many as it had turns.
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine_library.h"
#include "same_memory.h"

namespace {

using melt_bench::Engine;
using melt_bench::fail;

constexpr int kPrefillsPerRound = 8, kDecodePerRound = 32;
constexpr std::int64_t kSettleNs = 200'000;  // until woken threads poll again

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void spin(std::int64_t ns) {
  const std::int64_t until = now_ns() + ns;
  while (now_ns() < until) {
  }
}

struct Variant {
  std::string name;
  Engine engine;
  bool on;
  std::vector<std::int64_t> prefill_ns, decode_ns;
  std::uint64_t records = 0, dropped = 0;
};

std::int64_t timed_step(Variant& variant, const std::vector<std::int32_t>& ids) {
  Engine& engine = variant.engine;
  engine.pause(engine.instance, 0);
  spin(kSettleNs);
  if (variant.on)
    engine.record(engine.instance, 1);
  const std::int64_t begin = now_ns();
  const int status = engine.evaluate(engine.instance, ids.data(), static_cast<int>(ids.size()));
  const std::int64_t duration = now_ns() - begin;
  if (variant.on)
    engine.record(engine.instance, 0);
  engine.pause(engine.instance, 1);
  if (status != 0)
    fail(variant.name + ": evaluation failed");
  return duration;
}

/// A turn for each variant, and for each session as many as for the one that most variants share: else the context of
/// that would grow faster, and its attention be longer.
std::vector<Variant*> turns_of_a_step(std::vector<Variant>& variants) {
  const auto n_sharing = [&](const Variant& variant) {
    return std::count_if(variants.begin(), variants.end(),
                         [&](const Variant& other) { return other.engine.instance == variant.engine.instance; });
  };
  std::ptrdiff_t most = 0;
  for (const Variant& variant : variants)
    most = std::max(most, n_sharing(variant));
  std::vector<Variant*> turns;
  for (Variant& variant : variants)
    turns.insert(turns.end(), n_sharing(variant) == 1 ? static_cast<std::size_t>(most) : 1, &variant);
  return turns;
}

/// One evaluation for each turn, in random order. A prefill begins with an empty KV cache.
void take_turns(std::vector<Variant*>& turns, const std::vector<std::int32_t>& ids, bool is_prefill, bool counts,
                std::mt19937& random) {
  std::shuffle(turns.begin(), turns.end(), random);
  for (Variant* variant : turns) {
    if (is_prefill)
      variant->engine.reset(variant->engine.instance);
    const std::int64_t ns = timed_step(*variant, ids);
    if (counts)
      (is_prefill ? variant->prefill_ns : variant->decode_ns).push_back(ns);
  }
}

void print(const char* key, const std::vector<std::int64_t>& values, bool last) {
  std::printf("\"%s\": [", key);
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%s%lld", i ? "," : "", static_cast<long long>(values[i]));
  std::printf("]%s", last ? "" : ", ");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7)
    fail("usage: overhead MODEL N_THREADS ROUNDS N_PROMPT SEED NAME=LIBRARY[:on] ...");
  const int n_threads = std::atoi(argv[2]), rounds = std::atoi(argv[3]), n_prompt = std::atoi(argv[4]);
  std::mt19937 random(static_cast<unsigned>(std::atoi(argv[5])));
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < n_prompt; ++i)
    prompt.push_back(static_cast<std::int32_t>(random() % 2000));  // ids of any vocabulary

  // In random order: what is loaded first finds memory in another state than what is loaded last.
  std::vector<std::string> specs(argv + 6, argv + argc);
  std::shuffle(specs.begin(), specs.end(), random);
  std::vector<Variant> variants;
  std::vector<std::string> libraries;  // of each
  for (std::string spec : specs) {
    const bool on = spec.size() > 3 && spec.substr(spec.size() - 3) == ":on";
    if (on)
      spec.resize(spec.size() - 3);
    const std::size_t equals = spec.find('=');
    if (equals == std::string::npos)
      fail("no NAME=LIBRARY: " + spec);
    const std::string library = spec.substr(equals + 1);
    melt_bench::share_blocks_again();
    const auto known = std::find(libraries.begin(), libraries.end(), library);
    const bool is_new = known == libraries.end();
    const Engine engine = is_new ? melt_bench::load_engine(library, argv[1], n_threads, true)
                                 : variants[static_cast<std::size_t>(known - libraries.begin())].engine;
    libraries.push_back(library);
    variants.push_back({spec.substr(0, equals), engine, on, {}, {}});
    if (is_new) {
      engine.pause(engine.instance, 1);
      melt_bench::share_scratch(true);
      timed_step(variants.back(), prompt);
      melt_bench::share_scratch(false);
    }
  }
  const bool one_session = std::count(libraries.begin(), libraries.end(), libraries[0]) == argc - 6;
  if (melt_bench::stop_sharing_blocks() == 0 && !one_session)
    fail("the engines share no memory: they would differ by where theirs lies");
  std::vector<Variant*> prefill_turns, decode_turns = turns_of_a_step(variants);
  for (Variant& variant : variants)
    prefill_turns.push_back(&variant);
  for (int round = -1; round < rounds; ++round) {  // round -1 warms up
    // Behind a decode a session builds its graph anew, so that the first prefills do not count.
    for (int prefill = -1; prefill < kPrefillsPerRound; ++prefill)
      take_turns(prefill_turns, prompt, true, round >= 0 && prefill >= 0, random);
    for (int step = 0; step < kDecodePerRound; ++step) {
      const std::vector<std::int32_t> token{prompt[static_cast<std::size_t>(step) % prompt.size()]};
      take_turns(decode_turns, token, false, round >= 0, random);
    }
    for (Variant& variant : variants) {
      std::uint64_t records = 0, dropped = 0;
      variant.engine.recorded(variant.engine.instance, &records, &dropped);
      variant.records += records;
      variant.dropped += dropped;
    }
  }
  std::printf("{");
  for (Variant& variant : variants) {
    std::printf("\"%s\": {", variant.name.c_str());
    print("prefill_ns", variant.prefill_ns, false);
    print("decode_ns", variant.decode_ns, false);
    std::printf("\"records\": %llu, \"dropped\": %llu}%s", static_cast<unsigned long long>(variant.records),
                static_cast<unsigned long long>(variant.dropped), &variant == &variants.back() ? "" : ", ");
  }
  std::printf("}\n");
  for (std::size_t i = 0; i < variants.size(); ++i) {
    if (std::find(libraries.begin(), libraries.begin() + static_cast<std::ptrdiff_t>(i), libraries[i]) ==
        libraries.begin() + static_cast<std::ptrdiff_t>(i))
      variants[i].engine.close(variants[i].engine.instance);
  }
  return 0;
}
