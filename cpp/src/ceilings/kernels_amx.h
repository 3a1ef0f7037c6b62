// SPDX-License-Identifier: Apache-2.0
// AMX kernels (Intel SDM vol. 1, ch. 18): four accumulator tiles, so that the next product never waits for the last.
#pragma once

#include <cstdint>

namespace melt::ceilings {

constexpr std::uint64_t kAmxInt8Macs = 4ULL * 16 * 16 * 64;
constexpr std::uint64_t kAmxBf16Macs = 4ULL * 16 * 16 * 32;

/// As ArithmeticKernel. Only where CpuX86 says amx_int8 and os_amx.
double int8_amx(std::uint64_t passes);
/// As ArithmeticKernel. Only where CpuX86 says amx_bf16 and os_amx.
double bf16_amx(std::uint64_t passes);

}  // namespace melt::ceilings
