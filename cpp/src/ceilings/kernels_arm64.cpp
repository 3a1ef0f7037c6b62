// SPDX-License-Identifier: Apache-2.0
// Kernels for arm64: NEON, and the extensions dotprod, i8mm and bf16 where the system reports them.
#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace melt::ceilings {
namespace {

constexpr int kChains = 16;  // 4 cycles on up to 4 units

template <int kStreams>
std::uint64_t read_neon(const std::uint64_t* words, std::size_t n_words) {
  uint64x2_t sums[8];
  MELT_EACH_CHAIN(i, 8) sums[i] = vdupq_n_u64(0);
  for (const std::uint64_t* end = words + n_words; words != end; words += Step<kStreams>::kWords) {
    MELT_EACH_CHAIN(i, Step<kStreams>::kLines) {
      MELT_EACH_CHAIN(part, 4) {
        uint64x2_t& sum = sums[i % 2 * 4 + part];
        sum = vaddq_u64(sum, vld1q_u64(words + Step<kStreams>::word(i) + part * 2));
        keep_load_order();
      }
    }
  }
  std::uint64_t sum = 0;
  MELT_EACH_CHAIN(i, 8) sum += vaddvq_u64(sums[i]);
  return sum;
}

double f32_scalar(std::uint64_t passes) {
  float acc[kChains] = {}, x = 0.5F, y = 2.0F;
  MELT_OPAQUE("w", y);
  for (; passes > 0; --passes)
    MELT_EACH_CHAIN(i, kChains) {
      MELT_OPAQUE("w", acc[i]);  // or the chains would be joined into vectors
      MELT_OPAQUE("w", x);
      acc[i] = __builtin_fmaf(x, y, acc[i]);
    }
  float sums[kChains];  // a copy: an array whose address is taken would not stay in registers
  MELT_EACH_CHAIN(i, kChains) sums[i] = acc[i];
  return sum_of(sums, kChains);
}

double f32_neon(std::uint64_t passes) {
  float32x4_t acc[kChains], x = vdupq_n_f32(0.5F), y = vdupq_n_f32(2.0F);
  MELT_OPAQUE("w", y);
  MELT_EACH_CHAIN(i, kChains) {
    acc[i] = vdupq_n_f32(0.0F);
    MELT_OPAQUE("w", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("w", x);
    MELT_EACH_CHAIN(i, kChains) acc[i] = vfmaq_f32(acc[i], x, y);
  }
  float lanes[4 * kChains];
  MELT_EACH_CHAIN(i, kChains) vst1q_f32(lanes + 4 * i, acc[i]);
  return sum_of(lanes, 4 * kChains);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) double int8_dotprod(std::uint64_t passes) {
  int32x4_t acc[kChains];
  int8x16_t x = vdupq_n_s8(1), y = vdupq_n_s8(1);
  MELT_OPAQUE("w", y);
  MELT_EACH_CHAIN(i, kChains) {
    acc[i] = vdupq_n_s32(0);
    MELT_OPAQUE("w", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("w", x);
    MELT_EACH_CHAIN(i, kChains) acc[i] = vdotq_s32(acc[i], x, y);
  }
  std::int32_t lanes[4 * kChains];
  MELT_EACH_CHAIN(i, kChains) vst1q_s32(lanes + 4 * i, acc[i]);
  return sum_of(lanes, 4 * kChains);
}

__attribute__((target("arch=armv8.2-a+i8mm"))) double int8_i8mm(std::uint64_t passes) {
  int32x4_t acc[kChains];
  int8x16_t x = vdupq_n_s8(1), y = vdupq_n_s8(1);
  MELT_OPAQUE("w", y);
  MELT_EACH_CHAIN(i, kChains) {
    acc[i] = vdupq_n_s32(0);
    MELT_OPAQUE("w", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("w", x);
    MELT_EACH_CHAIN(i, kChains) acc[i] = vmmlaq_s32(acc[i], x, y);
  }
  std::int32_t lanes[4 * kChains];
  MELT_EACH_CHAIN(i, kChains) vst1q_s32(lanes + 4 * i, acc[i]);
  return sum_of(lanes, 4 * kChains);
}

__attribute__((target("arch=armv8.2-a+bf16"))) double bf16_neon(std::uint64_t passes) {
  float32x4_t acc[kChains];
  std::uint16_t one = 0x3f80;  // 1.0
  MELT_OPAQUE("r", one);       // or GCC 12 loads it with a half-precision instruction that bf16 alone does not bring
  bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(one)), y = x;
  MELT_OPAQUE("w", y);
  MELT_EACH_CHAIN(i, kChains) {
    acc[i] = vdupq_n_f32(0.0F);
    MELT_OPAQUE("w", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("w", x);
    MELT_EACH_CHAIN(i, kChains) acc[i] = vbfmmlaq_f32(acc[i], x, y);
  }
  float lanes[4 * kChains];
  MELT_EACH_CHAIN(i, kChains) vst1q_f32(lanes + 4 * i, acc[i]);
  return sum_of(lanes, 4 * kChains);
}

#if defined(__linux__)
/// Bits of the kernel's uapi/asm/hwcap.h, which older C libraries do not name.
bool has_dotprod() {
  return ((getauxval(AT_HWCAP) >> 20) & 1U) != 0;
}
bool has_i8mm() {
  return ((getauxval(AT_HWCAP2) >> 13) & 1U) != 0;
}
bool has_bf16() {
  return ((getauxval(AT_HWCAP2) >> 14) & 1U) != 0;
}
#define MELT_ABSENT(extension) "the kernel reports no " extension
#else
bool has_dotprod() {
  return false;
}
bool has_i8mm() {
  return false;
}
bool has_bf16() {
  return false;
}
#define MELT_ABSENT(extension) extension " is not looked for on this operating system"
#endif

}  // namespace

std::vector<Reader> readers() {
  const char* const loads = "16-byte loads (NEON)";
  return {{read_neon<1>, loads, 1}, {read_neon<2>, loads, 2}, {read_neon<4>, loads, 4}};
}

std::vector<Family> families() {
  return {
      {"f32_scalar", "fmadd", kChains, f32_scalar, nullptr},
      {"f32_neon", "fmla", 4 * kChains, f32_neon, nullptr},
      {"bf16_neon", "bfmmla", 16 * kChains, bf16_neon, has_bf16() ? nullptr : MELT_ABSENT("bf16")},
      {"int8_dotprod", "sdot", 16 * kChains, int8_dotprod, has_dotprod() ? nullptr : MELT_ABSENT("dotprod")},
      {"int8_i8mm", "smmla", 32 * kChains, int8_i8mm, has_i8mm() ? nullptr : MELT_ABSENT("i8mm")},
  };
}

}  // namespace melt::ceilings

#endif
