// SPDX-License-Identifier: Apache-2.0
// What this x86-64 CPU can execute and the operating system saves (Intel SDM vol. 2, CPUID; vol. 1, ch. 13).
#pragma once

#if defined(__x86_64__)

namespace melt::ceilings {

struct CpuX86 {
  bool fma = false;
  bool avx2 = false;
  bool avx512f = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool avx_vnni = false;
  bool amx_int8 = false;
  bool amx_bf16 = false;
  bool os_avx = false;     ///< the system saves the ymm registers
  bool os_avx512 = false;  ///< the zmm registers
  bool os_amx = false;     ///< the tiles, and lets this process use them
};

const CpuX86& cpu_x86();

}  // namespace melt::ceilings

#endif
