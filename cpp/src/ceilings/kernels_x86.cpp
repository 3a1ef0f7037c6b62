// SPDX-License-Identifier: Apache-2.0
// Kernels for x86-64. Chains per kernel: at least latency times units, 8 for multiply-adds of two units and 4 cycles.
#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu_x86.h"
#include "kernels_amx.h"

// GCC 11 and Clang 12 are the first with all of these.
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define MELT_TARGET(features) __attribute__((target(features)))
#else
#error "ceilings need GCC 11, Clang 12 or newer"
#endif

namespace melt::ceilings {
namespace {

template <std::size_t kN>
std::uint64_t total_of(const std::uint64_t (&lanes)[kN]) {
  std::uint64_t sum = 0;
  for (const std::uint64_t lane : lanes)
    sum += lane;
  return sum;
}

template <int kStreams>
std::uint64_t read_sse2(const std::uint64_t* words, std::size_t n_words) {
  __m128i sums[8];
  MELT_EACH_CHAIN(i, 8) sums[i] = _mm_setzero_si128();
  for (const std::uint64_t* end = words + n_words; words != end; words += Step<kStreams>::kWords) {
    MELT_EACH_CHAIN(i, Step<kStreams>::kLines) {
      const auto* line = reinterpret_cast<const __m128i*>(words + Step<kStreams>::word(i));
      MELT_EACH_CHAIN(part, 4) {
        __m128i& sum = sums[i % 2 * 4 + part];
        sum = _mm_add_epi64(sum, _mm_load_si128(line + part));
        keep_load_order();
      }
    }
  }
  alignas(16) std::uint64_t lanes[16];
  MELT_EACH_CHAIN(i, 8) _mm_store_si128(reinterpret_cast<__m128i*>(lanes) + i, sums[i]);
  return total_of(lanes);
}

template <int kStreams>
MELT_TARGET("avx2")
std::uint64_t read_avx2(const std::uint64_t* words, std::size_t n_words) {
  __m256i sums[8];
  MELT_EACH_CHAIN(i, 8) sums[i] = _mm256_setzero_si256();
  for (const std::uint64_t* end = words + n_words; words != end; words += Step<kStreams>::kWords) {
    MELT_EACH_CHAIN(i, Step<kStreams>::kLines) {
      const auto* line = reinterpret_cast<const __m256i*>(words + Step<kStreams>::word(i));
      MELT_EACH_CHAIN(part, 2) {
        __m256i& sum = sums[i % 4 * 2 + part];
        sum = _mm256_add_epi64(sum, _mm256_load_si256(line + part));
        keep_load_order();
      }
    }
  }
  alignas(32) std::uint64_t lanes[32];
  MELT_EACH_CHAIN(i, 8) _mm256_store_si256(reinterpret_cast<__m256i*>(lanes) + i, sums[i]);
  return total_of(lanes);
}

template <int kStreams>
MELT_TARGET("avx512f")
std::uint64_t read_avx512(const std::uint64_t* words, std::size_t n_words) {
  __m512i sums[8];
  MELT_EACH_CHAIN(i, 8) sums[i] = _mm512_setzero_si512();
  for (const std::uint64_t* end = words + n_words; words != end; words += Step<kStreams>::kWords) {
    MELT_EACH_CHAIN(i, Step<kStreams>::kLines) {
      sums[i % 8] = _mm512_add_epi64(sums[i % 8], _mm512_load_si512(words + Step<kStreams>::word(i)));
      keep_load_order();
    }
  }
  alignas(64) std::uint64_t lanes[64];
  MELT_EACH_CHAIN(i, 8) _mm512_store_si512(lanes + i * 8, sums[i]);
  return total_of(lanes);
}

MELT_TARGET("fma") double f32_scalar(std::uint64_t passes) {
  float acc[12] = {}, x = 0.5F, y = 2.0F;
  MELT_OPAQUE("x", y);
  for (; passes > 0; --passes)
    MELT_EACH_CHAIN(i, 12) {
      MELT_OPAQUE("x", acc[i]);  // or the chains would be joined into vectors
      MELT_OPAQUE("x", x);
      acc[i] = __builtin_fmaf(x, y, acc[i]);
    }
  float sums[12];  // a copy: an array whose address is taken would not stay in registers
  MELT_EACH_CHAIN(i, 12) sums[i] = acc[i];
  return sum_of(sums, 12);
}

double f32_sse(std::uint64_t passes) {
  __m128 acc[10], x = _mm_set1_ps(0.5F), y = _mm_set1_ps(2.0F);
  MELT_OPAQUE("x", y);
  MELT_EACH_CHAIN(i, 10) {
    acc[i] = _mm_setzero_ps();
    MELT_OPAQUE("x", acc[i]);
  }
  for (; passes > 0; --passes)
    MELT_EACH_CHAIN(i, 10) {
      MELT_OPAQUE("x", x);
      acc[i] = _mm_add_ps(acc[i], _mm_mul_ps(x, y));
    }
  alignas(16) float lanes[40];
  MELT_EACH_CHAIN(i, 10) _mm_store_ps(lanes + 4 * i, acc[i]);
  return sum_of(lanes, 40);
}

MELT_TARGET("avx2,fma") double f32_avx2(std::uint64_t passes) {
  __m256 acc[12], x = _mm256_set1_ps(0.5F), y = _mm256_set1_ps(2.0F);
  MELT_OPAQUE("x", y);
  MELT_EACH_CHAIN(i, 12) {
    acc[i] = _mm256_setzero_ps();
    MELT_OPAQUE("x", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("x", x);
    MELT_EACH_CHAIN(i, 12) acc[i] = _mm256_fmadd_ps(x, y, acc[i]);
  }
  alignas(32) float lanes[96];
  MELT_EACH_CHAIN(i, 12) _mm256_store_ps(lanes + 8 * i, acc[i]);
  return sum_of(lanes, 96);
}

MELT_TARGET("avx512f") double f32_avx512(std::uint64_t passes) {
  __m512 acc[16], x = _mm512_set1_ps(0.5F), y = _mm512_set1_ps(2.0F);
  MELT_OPAQUE("v", y);
  MELT_EACH_CHAIN(i, 16) {
    acc[i] = _mm512_setzero_ps();
    MELT_OPAQUE("v", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("v", x);
    MELT_EACH_CHAIN(i, 16) acc[i] = _mm512_fmadd_ps(x, y, acc[i]);
  }
  alignas(64) float lanes[256];
  MELT_EACH_CHAIN(i, 16) _mm512_store_ps(lanes + 16 * i, acc[i]);
  return sum_of(lanes, 256);
}

/// Three instructions a step, as in ggml's mul_sum_us8_pairs_float without VNNI, plus the accumulation.
MELT_TARGET("avx2") double int8_avx2(std::uint64_t passes) {
  __m256i acc[10], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  MELT_OPAQUE("x", y);
  MELT_EACH_CHAIN(i, 10) {
    acc[i] = _mm256_setzero_si256();
    MELT_OPAQUE("x", acc[i]);
  }
  for (; passes > 0; --passes)
    MELT_EACH_CHAIN(i, 10) {
      MELT_OPAQUE("x", x);
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
    }
  alignas(32) std::int32_t lanes[80];
  MELT_EACH_CHAIN(i, 10) _mm256_store_si256(reinterpret_cast<__m256i*>(lanes) + i, acc[i]);
  return sum_of(lanes, 80);
}

MELT_TARGET("avx2,avxvnni") double int8_avx_vnni(std::uint64_t passes) {
  __m256i acc[12], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1);
  MELT_OPAQUE("x", y);
  MELT_EACH_CHAIN(i, 12) {
    acc[i] = _mm256_setzero_si256();
    MELT_OPAQUE("x", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("x", x);
    MELT_EACH_CHAIN(i, 12) acc[i] = _mm256_dpbusd_avx_epi32(acc[i], x, y);
  }
  alignas(32) std::int32_t lanes[96];
  MELT_EACH_CHAIN(i, 12) _mm256_store_si256(reinterpret_cast<__m256i*>(lanes) + i, acc[i]);
  return sum_of(lanes, 96);
}

MELT_TARGET("avx512f,avx512vnni") double int8_avx512_vnni(std::uint64_t passes) {
  __m512i acc[16], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(1);
  MELT_OPAQUE("v", y);
  MELT_EACH_CHAIN(i, 16) {
    acc[i] = _mm512_setzero_si512();
    MELT_OPAQUE("v", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("v", x);
    MELT_EACH_CHAIN(i, 16) acc[i] = _mm512_dpbusd_epi32(acc[i], x, y);
  }
  alignas(64) std::int32_t lanes[256];
  MELT_EACH_CHAIN(i, 16) _mm512_store_si512(lanes + 16 * i, acc[i]);
  return sum_of(lanes, 256);
}

MELT_TARGET("avx512f,avx512bf16") double bf16_avx512(std::uint64_t passes) {
  __m512 acc[16];
  __m512i x = _mm512_set1_epi16(0x3f80), y = x;  // 1.0
  MELT_OPAQUE("v", y);
  MELT_EACH_CHAIN(i, 16) {
    acc[i] = _mm512_setzero_ps();
    MELT_OPAQUE("v", acc[i]);
  }
  for (; passes > 0; --passes) {
    MELT_OPAQUE("v", x);
    MELT_EACH_CHAIN(i, 16) acc[i] = _mm512_dpbf16_ps(acc[i], (__m512bh)x, (__m512bh)y);
  }
  alignas(64) float lanes[256];
  MELT_EACH_CHAIN(i, 16) _mm512_store_ps(lanes + 16 * i, acc[i]);
  return sum_of(lanes, 256);
}

/// nullptr if both hold; else which does not.
const char* missing(bool has, bool saved, const char* no_instruction, const char* no_state) {
  if (!has)
    return no_instruction;
  return saved ? nullptr : no_state;
}

}  // namespace

std::vector<Reader> readers() {
  const CpuX86& cpu = cpu_x86();
  std::vector<Reader> found;
  const auto add = [&](const char* instructions, ReadKernel one, ReadKernel two, ReadKernel four) {
    found.push_back({one, instructions, 1});
    found.push_back({two, instructions, 2});
    found.push_back({four, instructions, 4});
  };
  if (cpu.avx512f && cpu.os_avx512)
    add("64-byte loads (AVX-512)", read_avx512<1>, read_avx512<2>, read_avx512<4>);
  if (cpu.avx2 && cpu.os_avx)
    add("32-byte loads (AVX2)", read_avx2<1>, read_avx2<2>, read_avx2<4>);
  add("16-byte loads (SSE2)", read_sse2<1>, read_sse2<2>, read_sse2<4>);
  return found;
}

std::vector<Family> families() {
  const CpuX86& cpu = cpu_x86();
  const auto avx = [&](bool has, const char* reason) {
    return missing(has, cpu.os_avx, reason, "the operating system does not save AVX registers");
  };
  const auto avx512 = [&](bool has, const char* reason) {
    return missing(cpu.avx512f && has, cpu.os_avx512, reason, "the operating system does not save AVX-512 registers");
  };
  const auto amx = [&](bool has, const char* reason) {
    return missing(has, cpu.os_amx, reason, "the operating system gives this process no AMX tiles");
  };
  return {
      {"f32_scalar", "vfmadd231ss", 12, f32_scalar, avx(cpu.fma, "this CPU has no FMA")},
      {"f32_sse", "mulps, addps", 40, f32_sse, nullptr},
      {"f32_avx2", "vfmadd231ps ymm", 96, f32_avx2, avx(cpu.avx2 && cpu.fma, "this CPU has no AVX2 with FMA")},
      {"f32_avx512", "vfmadd231ps zmm", 256, f32_avx512, avx512(true, "this CPU has no AVX-512F")},
      {"bf16_avx512", "vdpbf16ps zmm", 512, bf16_avx512, avx512(cpu.avx512_bf16, "this CPU has no AVX512-BF16")},
      {"bf16_amx", "tdpbf16ps", kAmxBf16Macs, bf16_amx, amx(cpu.amx_bf16, "this CPU has no AMX-BF16")},
      {"int8_avx2", "vpmaddubsw, vpmaddwd, vpaddd ymm", 320, int8_avx2, avx(cpu.avx2, "this CPU has no AVX2")},
      {"int8_avx_vnni", "vpdpbusd ymm (VEX)", 384, int8_avx_vnni, avx(cpu.avx_vnni, "this CPU has no AVX-VNNI")},
      {"int8_avx512_vnni", "vpdpbusd zmm", 1024, int8_avx512_vnni,
       avx512(cpu.avx512_vnni, "this CPU has no AVX512-VNNI")},
      {"int8_amx", "tdpbssd", kAmxInt8Macs, int8_amx, amx(cpu.amx_int8, "this CPU has no AMX-INT8")},
  };
}

}  // namespace melt::ceilings

#endif
