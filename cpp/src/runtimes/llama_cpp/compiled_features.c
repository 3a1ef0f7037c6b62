// SPDX-License-Identifier: Apache-2.0
// Compiled with ggml-cpu's own flags: which instructions its kernels may contain. Data only, so that reading it
// executes none of them; cpp/src/cpu_features.cpp knows how to ask for each name.
#include "compiled_features.h"

const char melt_compiled_cpu_features[] =
#if defined(__x86_64__)
#ifdef __SSE3__
    " sse3"
#endif
#ifdef __SSSE3__
    " ssse3"
#endif
#ifdef __SSE4_1__
    " sse4.1"
#endif
#ifdef __SSE4_2__
    " sse4.2"
#endif
#ifdef __POPCNT__
    " popcnt"
#endif
#ifdef __MOVBE__
    " movbe"
#endif
#ifdef __LZCNT__
    " lzcnt"
#endif
#ifdef __BMI__
    " bmi"
#endif
#ifdef __BMI2__
    " bmi2"
#endif
#ifdef __ADX__
    " adx"
#endif
#ifdef __F16C__
    " f16c"
#endif
#ifdef __FMA__
    " fma"
#endif
#ifdef __AVX__
    " avx"
#endif
#ifdef __AVX2__
    " avx2"
#endif
#ifdef __AVXVNNI__
    " avxvnni"
#endif
#ifdef __AVX512F__
    " avx512f"
#endif
#ifdef __AVX512CD__
    " avx512cd"
#endif
#ifdef __AVX512BW__
    " avx512bw"
#endif
#ifdef __AVX512DQ__
    " avx512dq"
#endif
#ifdef __AVX512VL__
    " avx512vl"
#endif
#ifdef __AVX512VBMI__
    " avx512vbmi"
#endif
#ifdef __AVX512VNNI__
    " avx512vnni"
#endif
#ifdef __AVX512BF16__
    " avx512bf16"
#endif
#ifdef __AVX512FP16__
    " avx512fp16"
#endif
// AMX is not among them: ggml asks for it at run time before it uses it.
#elif defined(__aarch64__)
#ifdef __ARM_FEATURE_ATOMICS
    " lse"
#endif
#ifdef __ARM_FEATURE_QRDMX
    " rdma"
#endif
#ifdef __ARM_FEATURE_CRC32
    " crc"
#endif
#ifdef __ARM_FEATURE_RCPC
    " rcpc"
#endif
#ifdef __ARM_FEATURE_FP16_VECTOR_ARITHMETIC
    " fp16"
#endif
#ifdef __ARM_FEATURE_FP16_FML
    " fp16fml"
#endif
#ifdef __ARM_FEATURE_DOTPROD
    " dotprod"
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
    " i8mm"
#endif
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    " bf16"
#endif
#ifdef __ARM_FEATURE_SVE
    " sve"
#endif
#ifdef __ARM_FEATURE_SVE2
    " sve2"
#endif
#ifdef __ARM_FEATURE_SME
    " sme"
#endif
#endif
    "";
