/* SPDX-License-Identifier: Apache-2.0
 * The hook that third_party/patches/llama.cpp/0002-cpu-op-hooks.patch builds into ggml-cpu's node loop, and that
 * op_hooks.cpp serves. Plain C: ggml-cpu.c includes it.
 *
 * Cost when off: a test per graph and thread, then upstream's own loop. When on: one counter read and one 24-byte store
 * per group and thread, before the barrier; without last_reads only those threads read that wait
 * (benchmarks/bench_overhead.py).
 */
#ifndef MELT_GGML_HOOK_H
#define MELT_GGML_HOOK_H

#include "melt/thread_stamps.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_cgraph;

struct ggml_melt_hook {
  struct melt_thread_stamps* threads; /* one for each thread index */
  int n_threads;
  int last_reads; /* whether the thread that comes last to a barrier reads the counter too; graph_begin may set it */
  void* user;
  uint64_t begin_ticks; /* when the calling thread, having woken the others, went into the node loop */
  uint64_t end_ticks;   /* when it was out of it again */
  /* Called by the thread that computes the graph, before the other threads start and after the last barrier. */
  void (*graph_begin)(void* user, const struct ggml_cgraph* graph);
  void (*graph_end)(void* user, int n_threads, int aborted);
};

/* Of the graphs that this thread computes; NULL: off. (__thread, not thread_local: C and C++ must agree.) */
#define MELT_THREAD_LOCAL __thread
extern MELT_THREAD_LOCAL struct ggml_melt_hook* ggml_melt_active;

#ifdef __cplusplus
}
#endif

#endif /* MELT_GGML_HOOK_H */
