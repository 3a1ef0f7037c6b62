// SPDX-License-Identifier: Apache-2.0
#include "cpu_x86.h"

#if defined(__x86_64__)

#include <cpuid.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace melt::ceilings {
namespace {

bool bit(unsigned value, int number) {
  return ((value >> number) & 1U) != 0;
}

/// XCR0: the register sets that the system saves. By bytes, as compilers without -mxsave lack the intrinsic.
std::uint64_t saved_state() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

/// Linux gives tile registers only to processes that ask (Documentation/arch/x86/xstate.rst).
bool request_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuX86 detect() {
  CpuX86 cpu;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0)
    return cpu;
  const bool osxsave = bit(c, 27);
  cpu.fma = bit(c, 12);
  const std::uint64_t saved = osxsave ? saved_state() : 0;
  cpu.os_avx = (saved & 0x6) == 0x6;
  cpu.os_avx512 = (saved & 0xe6) == 0xe6;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0)
    return cpu;
  const unsigned subleaves = a;
  cpu.avx2 = bit(b, 5);
  cpu.avx512f = bit(b, 16);
  cpu.avx512_vnni = bit(c, 11);
  cpu.amx_bf16 = bit(d, 22);
  cpu.amx_int8 = bit(d, 25);
  cpu.os_amx = bit(d, 24) && (saved & 0x60000) == 0x60000 && request_tiles();
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    cpu.avx_vnni = bit(a, 4);
    cpu.avx512_bf16 = bit(a, 5);
  }
  return cpu;
}

}  // namespace

const CpuX86& cpu_x86() {
  static const CpuX86 cpu = detect();
  return cpu;
}

}  // namespace melt::ceilings

#endif
