// SPDX-License-Identifier: Apache-2.0
// perf_event_open(2), which the C library does not wrap, for events of the calling thread on any processor.
#pragma once

#if defined(__linux__)
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace melt {

inline perf_event_attr perf_attributes(std::uint32_t type, std::uint64_t config) noexcept {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = type;
  attributes.config = config;
  return attributes;
}

/// A file, or -1 with errno.
inline int perf_open(const perf_event_attr& attributes, int group) noexcept {
  return static_cast<int>(syscall(SYS_perf_event_open, &attributes, 0, -1, group, PERF_FLAG_FD_CLOEXEC));
}

}  // namespace melt
#endif
