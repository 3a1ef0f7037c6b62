/* SPDX-License-Identifier: Apache-2.0
 * What the hot path writes: one 24-byte stamp per executed group and thread. Plain C, because the patch of ggml-cpu.c
 * (third_party/patches/llama.cpp/0002) includes it.
 *
 * One reading is enough. All threads leave a group's barrier together, at the latest end of any of them, so
 *   start(n)     = group_end(n-1)                      (thread_begin for the first group)
 *   compute_i(n) = end_i(n) - start(n)
 *   wait_i(n)    = group_end(n) - end_i(n)             (on thread 0 until thread_end for the last group)
 * where end_i(n) = ticks_i(n), and group_end(n) is the latest of them. Where a reading would be felt, the thread that
 * keeps the others waiting leaves its own out: it ended when the group did, at the latest `released` of those.
 */
#ifndef MELT_THREAD_STAMPS_H
#define MELT_THREAD_STAMPS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <time.h>
#endif

/* The raw counter of this machine: the same one that melt::Clock reads. */
static inline uint64_t melt_ticks(void) {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  uint64_t value;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

struct melt_stamp {
  uint64_t ticks;      /* when this thread had finished the group's kernel; 0: not read, it was the last to */
  uint64_t released;   /* its last reading before it saw that all had; 0: it did not look */
  uint32_t first_node; /* index of the group's first node in the graph */
  uint32_t last_node;  /* and of its last: the same unless ops were fused */
};

/* Level `counters` only: what a thread read when it began a graph, and after each group when it was out of the barrier.
 * An entry is {ticks when the reading was over, the reading}; the reading is laid out as read(2) of a perf group. */
struct melt_thread_counters {
  uint64_t* entries;
  uint32_t entry_words;
  uint32_t capacity; /* entries */
  uint32_t count;    /* of the last graph */
  int file;          /* of the group's leader */
  void (*read)(int file, uint64_t* words, uint32_t n_words);
};

/* The one reading of an op boundary. */
static inline void melt_count(struct melt_thread_counters* counters) {
  if (counters->count < counters->capacity) {
    uint64_t* entry = counters->entries + (size_t)counters->count * counters->entry_words;
    counters->read(counters->file, entry + 1, counters->entry_words - 1);
    entry[0] = melt_ticks();
    counters->count++;
  }
}

/* Where a thread's stamps of the current graph go: a stretch of that thread's log, so that nobody has to move them.
 * Written by one thread only, in a cache line of its own. Where threads compute together, each works on a copy, in
 * registers, and writes it back once per graph: processors fetch lines in pairs, and with each stamp the neighbour's
 * would be lost (18 us for 540 groups). */
struct __attribute__((aligned(64))) melt_thread_stamps {
  struct melt_stamp* stamps;
  uint32_t capacity; /* stamps that the log has room for */
  uint32_t count;    /* stamps of the last graph */
  uint32_t dropped;  /* groups of the last graph that found no room */
  uint32_t reserved;
  uint64_t thread_begin;                 /* when this thread began the last graph; of thread 0, when the graph began */
  uint64_t thread_end;                   /* thread 0 only: when it was out of the last barrier */
  struct melt_thread_counters* counters; /* null without level `counters` */
};

/* Stamps a group: the only place where one is written, or counted as lost. */
static inline void melt_stamp_group(struct melt_thread_stamps* to, uint64_t ticks, uint64_t released,
                                    uint32_t first_node, uint32_t last_node) {
  if (to->count < to->capacity) {
    struct melt_stamp* stamp = to->stamps + to->count++;
    stamp->ticks = ticks;
    stamp->released = released;
    stamp->first_node = first_node;
    stamp->last_node = last_node;
  } else {
    to->dropped++;
  }
}

#endif /* MELT_THREAD_STAMPS_H */
