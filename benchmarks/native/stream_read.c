// SPDX-License-Identifier: Apache-2.0
// An independent measurement of streaming read bandwidth, in the manner of STREAM (McCalpin): whole passes over one
// array, no code of ours, vectorised by the compiler alone. Prints "best median" in bytes/s.
//     stream_read BYTES THREADS PASSES
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double* data;
static size_t n_doubles;
static int n_threads, n_passes;
static pthread_barrier_t barrier;
static double (*spans)[2];  // of a pass and thread: begin and end in s
static volatile double sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double sum_of(const double* values, size_t n) {
  double sums[32] = {0};
  for (size_t i = 0; i + 32 <= n; i += 32)
    for (int lane = 0; lane < 32; ++lane)
      sums[lane] += values[i + (size_t)lane];
  double sum = 0;
  for (int lane = 0; lane < 32; ++lane)
    sum += sums[lane];
  return sum;
}

static void* reader(void* argument) {
  const int thread = (int)(intptr_t)argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(thread, &set);
  sched_setaffinity(0, sizeof set, &set);
  const size_t share = n_doubles / (size_t)n_threads;
  double* own = data + share * (size_t)thread;
  for (size_t i = 0; i < share; ++i)
    own[i] = 1.0;
  for (int pass = 0; pass < n_passes; ++pass) {
    pthread_barrier_wait(&barrier);
    double* span = spans[pass * n_threads + thread];
    span[0] = now();
    sink = sum_of(own, share);
    span[1] = now();
  }
  return NULL;
}

static int ascending(const void* a, const void* b) {
  return *(const double*)a < *(const double*)b ? -1 : *(const double*)a > *(const double*)b;
}

int main(int argc, char** argv) {
  if (argc != 4)
    return 2;
  const size_t bytes = strtoull(argv[1], NULL, 10);
  n_threads = atoi(argv[2]);
  n_passes = atoi(argv[3]);
  n_doubles = bytes / sizeof(double);
  data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return 1;
  madvise(data, bytes, MADV_HUGEPAGE);
  spans = calloc((size_t)(n_passes * n_threads), sizeof *spans);
  pthread_t* threads = calloc((size_t)n_threads, sizeof *threads);
  pthread_barrier_init(&barrier, NULL, (unsigned)n_threads);
  for (int thread = 0; thread < n_threads; ++thread)
    pthread_create(&threads[thread], NULL, reader, (void*)(intptr_t)thread);
  for (int thread = 0; thread < n_threads; ++thread)
    pthread_join(threads[thread], NULL);
  double* rates = calloc((size_t)n_passes, sizeof *rates);
  for (int pass = 0; pass < n_passes; ++pass) {
    double begin = spans[pass * n_threads][0], end = spans[pass * n_threads][1];
    for (int thread = 1; thread < n_threads; ++thread) {
      const double* span = spans[pass * n_threads + thread];
      begin = span[0] < begin ? span[0] : begin;
      end = span[1] > end ? span[1] : end;
    }
    rates[pass] = (double)bytes / (end - begin);
  }
  qsort(rates, (size_t)n_passes, sizeof *rates, ascending);
  printf("%.0f %.0f\n", rates[n_passes - 1], rates[n_passes / 2]);
  return 0;
}
