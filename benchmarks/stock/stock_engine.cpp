// SPDX-License-Identifier: Apache-2.0
// Stock llama.cpp behind engine.h, set up as melt_core sets it up: own thread pool, logits of the last token only.
#include <cstdio>

#include "engine.h"
#include "llama.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

struct bench_engine {
  llama_model* model = nullptr;
  llama_context* context = nullptr;
  ggml_threadpool* pool = nullptr;
  llama_batch batch{};
  int n_past = 0;
};

EXPORT bench_engine* bench_open(const char* path, int n_threads, int n_ctx, int repack) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR)
          std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  auto* engine = new bench_engine;
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  model_params.use_extra_bufts = repack != 0;
  engine->model = llama_model_load_from_file(path, model_params);
  if (engine->model == nullptr)
    return nullptr;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(n_ctx);
  params.n_outputs_max = 1;
  params.n_threads = params.n_threads_batch = n_threads;
  params.no_perf = true;
  engine->context = llama_init_from_model(engine->model, params);
  if (engine->context == nullptr)
    return nullptr;
  ggml_threadpool_params pool = ggml_threadpool_params_default(n_threads);
  engine->pool = ggml_threadpool_new(&pool);
  llama_attach_threadpool(engine->context, engine->pool, nullptr);
  engine->batch = llama_batch_init(2048, 0, 1);
  return engine;
}

EXPORT void bench_reset(bench_engine* engine) {
  llama_memory_clear(llama_get_memory(engine->context), false);
  engine->n_past = 0;
}

EXPORT int bench_evaluate(bench_engine* engine, const int32_t* ids, int n) {
  engine->batch.n_tokens = n;
  for (int i = 0; i < n; ++i) {
    engine->batch.token[i] = ids[i];
    engine->batch.pos[i] = engine->n_past + i;
    engine->batch.n_seq_id[i] = 1;
    engine->batch.seq_id[i][0] = 0;
    engine->batch.logits[i] = i + 1 == n;
  }
  const int status = llama_decode(engine->context, engine->batch);
  llama_synchronize(engine->context);
  engine->n_past += n;
  return status;
}

EXPORT const float* bench_logits(bench_engine* engine) {
  return llama_get_logits_ith(engine->context, -1);
}
EXPORT int bench_vocabulary(bench_engine* engine) {
  return llama_vocab_n_tokens(llama_model_get_vocab(engine->model));
}

EXPORT void bench_pause(bench_engine* engine, int paused) {
  paused != 0 ? ggml_threadpool_pause(engine->pool) : ggml_threadpool_resume(engine->pool);
}

EXPORT void bench_record(bench_engine*, int) {}
EXPORT void bench_recorded(bench_engine*, uint64_t* records, uint64_t* dropped) {
  *records = *dropped = 0;
}

EXPORT void bench_close(bench_engine* engine) {
  llama_batch_free(engine->batch);
  llama_free(engine->context);
  ggml_threadpool_free(engine->pool);
  llama_model_free(engine->model);
  delete engine;
}
