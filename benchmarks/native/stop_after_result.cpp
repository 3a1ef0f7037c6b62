// SPDX-License-Identifier: Apache-2.0
// Preloaded with same_memory: a program stops itself when it has printed a result to standard output and flushed it,
// until somebody sends it SIGCONT. Stopped from outside, it may be within its next evaluation, and read what another
// program meanwhile wrote to the memory that they share.
#include <dlfcn.h>
#include <stdio_ext.h>

#include <csignal>
#include <cstdio>

extern "C" __attribute__((visibility("default"))) int fflush(FILE* stream) {
  static const auto next = reinterpret_cast<int (*)(FILE*)>(dlsym(RTLD_NEXT, "fflush"));
  const bool has_result = stream == stdout && __fpending(stream) > 0;
  const int status = next(stream);
  if (has_result)
    std::raise(SIGSTOP);
  return status;
}
