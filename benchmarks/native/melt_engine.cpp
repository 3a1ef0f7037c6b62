// SPDX-License-Identifier: Apache-2.0
// melt_core's llama.cpp session and recorder behind engine.h: what a user's run goes through, hooks off or on.
#include <cstdio>
#include <vector>

#include "counters/thread_events.h"
#include "engine.h"
#include "ggml-cpu.h"
#include "melt/recorder.h"
#include "runtimes/llama_cpp/session.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr std::size_t kTopologies = 16;

struct bench_engine {
  explicit bench_engine(const melt::ModelOptions& options)
      : session(options), events(options.n_threads, {}), recorder(options.n_threads, {}) {
    events.prepare(*session.ops(), recorder);
    recorder.watch_with(&events);
  }

  melt::llama_cpp::LlamaSession session;
  melt::ThreadEvents events;  // before the recorder, which follows it
  melt::OpRecorder recorder;
};

EXPORT bench_engine* bench_open(const char* path, int n_threads, int n_ctx, int repack) {
  try {
    melt::ModelOptions options;
    options.path = path;
    options.repack = repack != 0;
    options.n_threads = static_cast<std::uint32_t>(n_threads);
    options.n_ctx = static_cast<std::uint32_t>(n_ctx);
    auto* engine = new bench_engine(options);
    bench_reset(engine);
    return engine;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return nullptr;
  }
}

EXPORT void bench_reset(bench_engine* engine) {
  engine->session.reset({});
  engine->session.ops()->clear(kTopologies);
  engine->recorder.begin_run(4096, engine->session.ops()->groups_hint());
}

EXPORT int bench_evaluate(bench_engine* engine, const int32_t* ids, int n) {
  return engine->session.evaluate(ids, static_cast<std::size_t>(n)) == melt::EvalStatus::kOk ? 0 : 1;
}

EXPORT void bench_pause(bench_engine* engine, int paused) {
  paused != 0 ? ggml_threadpool_pause(engine->session.pool()) : ggml_threadpool_resume(engine->session.pool());
}

EXPORT void bench_record(bench_engine* engine, int on) {
  if (on == 0) {
    engine->session.ops()->stop();
    engine->recorder.stop();
  } else {
    engine->recorder.start();
    engine->session.ops()->start(engine->recorder);
  }
}

EXPORT void bench_recorded(bench_engine* engine, uint64_t* records, uint64_t* dropped) {
  *records = *dropped = 0;
  for (const melt::LoggedGraph& graph : engine->recorder.graphs()) {
    *dropped += graph.n_dropped;
    *records += static_cast<uint64_t>(graph.n_groups) * graph.n_threads - graph.n_dropped;
  }
  *dropped += engine->recorder.lost().n_records;
}

EXPORT void bench_close(bench_engine* engine) {
  delete engine;
}
