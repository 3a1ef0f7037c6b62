// SPDX-License-Identifier: Apache-2.0
// One engine evaluates a prompt, then tokens, in functions that callgrind finds by their names: bench_instructions.py
// has it dump its counts before the first and after each.
// usage: count_steps MODEL N_THREADS N_PROMPT N_DECODE LIBRARY[:on]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine_library.h"

using melt_bench::Engine;
using melt_bench::fail;

namespace {

void evaluate(const Engine& engine, const std::vector<std::int32_t>& ids) {
  if (engine.evaluate(engine.instance, ids.data(), static_cast<int>(ids.size())) != 0)
    fail("evaluation failed");
}

}  // namespace

extern "C" __attribute__((noinline)) void counted_prefill(const Engine& engine, const std::vector<std::int32_t>& ids) {
  evaluate(engine, ids);
}

extern "C" __attribute__((noinline)) void counted_decode(const Engine& engine, int n_steps) {
  for (int step = 0; step < n_steps; ++step)
    evaluate(engine, {1000 + step});
}

int main(int argc, char** argv) {
  if (argc != 6)
    fail("usage: count_steps MODEL N_THREADS N_PROMPT N_DECODE LIBRARY[:on]");
  std::string library = argv[5];
  const bool on = library.size() > 3 && library.substr(library.size() - 3) == ":on";
  if (on)
    library.resize(library.size() - 3);
  const Engine engine = melt_bench::load_engine(library, argv[1], std::atoi(argv[2]), false);
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < std::atoi(argv[3]); ++i)
    prompt.push_back(100 + i);
  evaluate(engine, prompt);  // warms up: what is set up at the first evaluation is no part of the next
  evaluate(engine, {1000});
  engine.reset(engine.instance);
  if (on)
    engine.record(engine.instance, 1);
  counted_prefill(engine, prompt);
  counted_decode(engine, std::atoi(argv[4]));
  std::uint64_t records = 0, dropped = 0;
  engine.recorded(engine.instance, &records, &dropped);
  engine.close(engine.instance);
  std::printf("{\"records\": %llu, \"dropped\": %llu}\n", static_cast<unsigned long long>(records),
              static_cast<unsigned long long>(dropped));
  return 0;
}
