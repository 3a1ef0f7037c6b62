// SPDX-License-Identifier: Apache-2.0
// An engine (engine.h) in a shared object, loaded apart from all others: what the programs that drive one share.
#ifndef MELT_BENCH_ENGINE_LIBRARY_H
#define MELT_BENCH_ENGINE_LIBRARY_H

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>

#include "engine.h"

namespace melt_bench {

[[noreturn]] inline void fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);
}

struct Engine {
  decltype(&bench_open) open;
  decltype(&bench_reset) reset;
  decltype(&bench_evaluate) evaluate;
  decltype(&bench_pause) pause;
  decltype(&bench_record) record;
  decltype(&bench_recorded) recorded;
  decltype(&bench_close) close;
  bench_engine* instance = nullptr;
};

/// Returns the engine of a shared object with its model open; ends the program with the reason where that fails.
inline Engine load_engine(const std::string& library, const char* model, int n_threads, bool repack) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    fail(dlerror());
  Engine engine{};
  const auto symbol = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
    if (function == nullptr)
      fail(library + " has no " + name);
  };
  symbol("bench_open", engine.open);
  symbol("bench_reset", engine.reset);
  symbol("bench_evaluate", engine.evaluate);
  symbol("bench_pause", engine.pause);
  symbol("bench_record", engine.record);
  symbol("bench_recorded", engine.recorded);
  symbol("bench_close", engine.close);
  engine.instance = engine.open(model, n_threads, 512, repack ? 1 : 0);
  if (engine.instance == nullptr)
    fail("cannot open the model");
  return engine;
}

}  // namespace melt_bench

#endif  // MELT_BENCH_ENGINE_LIBRARY_H
