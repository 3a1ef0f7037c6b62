// SPDX-License-Identifier: Apache-2.0
// melt_core's MLC session and recorder behind engine.h. The name of the copy that is loaded says what stands between
// TVM's virtual machine and its functions: "stock" in it nothing, "instrument" an empty callback in the machine's own
// set_instrument while recording is on, else our hooks.
#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

#include "engine.h"
#include "melt/recorder.h"
#include "runtimes/mlc/session.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr std::size_t kGraphs = 4096;
constexpr std::size_t kTopologies = 16;

bool name_has(const char* part) {
  Dl_info info{};
  return dladdr(reinterpret_cast<void*>(&name_has), &info) != 0 &&
         std::string(info.dli_fname).find(part) != std::string::npos;
}

int no_work(void*, const TVMFFIAny*, std::int32_t, TVMFFIAny*) {
  return 0;
}

void keep(void*) {}

melt::mlc::Value empty_callback() {
  TVMFFIObjectHandle made = nullptr;
  melt::mlc::tvm().ffi.create_function(nullptr, no_work, keep, &made);
  TVMFFIAny any{};
  any.type_index = kTVMFFIFunction;
  any.v_obj = static_cast<TVMFFIObject*>(made);
  return melt::mlc::Value(any);
}

}  // namespace

struct bench_engine {
  explicit bench_engine(const melt::ModelOptions& options)
      : instruments(name_has("instrument")),
        session(options, instruments || name_has("stock")),
        recorder(options.n_threads, {}) {
    if (instruments)
      callback = empty_callback();
  }

  void set_instrument(bool on) {
    melt::mlc::call("set_instrument", session.library().function("set_instrument"),
                    {on ? callback.any() : TVMFFIAny{}});
  }

  bool instruments;
  melt::mlc::MlcSession session;
  melt::OpRecorder recorder;
  melt::mlc::Value callback;
};

EXPORT bench_engine* bench_open(const char* path, int n_threads, int n_ctx, int) {
  try {
    melt::ModelOptions options;
    options.path = path;
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
  engine->recorder.begin_run(kGraphs / 16, engine->session.ops()->groups_hint());
}

EXPORT int bench_evaluate(bench_engine* engine, const int32_t* ids, int n) {
  return engine->session.evaluate(ids, static_cast<std::size_t>(n)) == melt::EvalStatus::kOk ? 0 : 1;
}

/// TVM's threads belong to the calling thread, so that all engines share them.
EXPORT void bench_pause(bench_engine*, int) {}

EXPORT void bench_record(bench_engine* engine, int on) {
  if (engine->instruments) {
    engine->set_instrument(on != 0);
  } else if (on == 0) {
    engine->session.ops()->stop();
  } else {
    engine->session.ops()->start(engine->recorder);
  }
}

EXPORT void bench_recorded(bench_engine* engine, uint64_t* records, uint64_t* dropped) {
  *records = *dropped = 0;
  for (const melt::LoggedGraph& graph : engine->recorder.graphs()) {
    *dropped += graph.n_dropped;
    *records += graph.n_groups - graph.n_dropped;
  }
  *dropped += engine->recorder.lost().n_records;
}

EXPORT void bench_close(bench_engine* engine) {
  delete engine;
}
