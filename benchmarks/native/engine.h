/* SPDX-License-Identifier: Apache-2.0
 * What the overhead benchmark needs of an inference engine, as a C interface, so that stock llama.cpp and the patched
 * build can be loaded side by side into one process as two shared objects. */
#ifndef MELT_BENCH_ENGINE_H
#define MELT_BENCH_ENGINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bench_engine;

/* `repack`: copy weights into the layout of the best kernels, where the runtime does so; else they are read from the
 * mapped file, which all engines share. NULL on failure, with the reason on standard error. */
struct bench_engine* bench_open(const char* model, int n_threads, int n_ctx, int repack);
/* Empties the KV cache. */
void bench_reset(struct bench_engine* engine);
/* Evaluates n tokens and waits for the logits of the last. 0: done. */
int bench_evaluate(struct bench_engine* engine, const int32_t* ids, int n);
/* Lets the threads of this engine sleep while another one is measured, or wakes them. */
void bench_pause(struct bench_engine* engine, int paused);
/* Switches the recording of ops on or off; ignored by the stock engine. */
void bench_record(struct bench_engine* engine, int on);
/* Ops recorded and dropped since the last call, over all threads. */
void bench_recorded(struct bench_engine* engine, uint64_t* records, uint64_t* dropped);
void bench_close(struct bench_engine* engine);

#ifdef __cplusplus
}
#endif

#endif /* MELT_BENCH_ENGINE_H */
