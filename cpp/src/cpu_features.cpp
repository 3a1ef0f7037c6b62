// SPDX-License-Identifier: Apache-2.0
#include "melt/cpu_features.h"

#include <algorithm>
#include <cstdint>
#include <sstream>

#include "text_list.h"

#ifdef MELT_WITH_LLAMA_CPP
#include "runtimes/llama_cpp/compiled_features.h"
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace melt {
namespace {

#if defined(__x86_64__)

// Intel SDM volume 2, CPUID; the register sets by XCR0, volume 1, 13.3.
enum class Needs : std::uint8_t { kNothing, kAvxState, kAvx512State, kAmxState };
enum Register : std::uint8_t { kEax, kEbx, kEcx, kEdx };

struct X86Feature {
  const char* name;
  std::uint32_t leaf;
  std::uint32_t subleaf;
  Register reg;
  int bit;
  Needs needs;
};

constexpr X86Feature kFeatures[] = {
    {"sse3", 1, 0, kEcx, 0, Needs::kNothing},           {"ssse3", 1, 0, kEcx, 9, Needs::kNothing},
    {"sse4.1", 1, 0, kEcx, 19, Needs::kNothing},        {"sse4.2", 1, 0, kEcx, 20, Needs::kNothing},
    {"popcnt", 1, 0, kEcx, 23, Needs::kNothing},        {"movbe", 1, 0, kEcx, 22, Needs::kNothing},
    {"lzcnt", 0x80000001, 0, kEcx, 5, Needs::kNothing}, {"bmi", 7, 0, kEbx, 3, Needs::kNothing},
    {"bmi2", 7, 0, kEbx, 8, Needs::kNothing},           {"adx", 7, 0, kEbx, 19, Needs::kNothing},
    {"f16c", 1, 0, kEcx, 29, Needs::kAvxState},         {"fma", 1, 0, kEcx, 12, Needs::kAvxState},
    {"avx", 1, 0, kEcx, 28, Needs::kAvxState},          {"avx2", 7, 0, kEbx, 5, Needs::kAvxState},
    {"avxvnni", 7, 1, kEax, 4, Needs::kAvxState},       {"avx512f", 7, 0, kEbx, 16, Needs::kAvx512State},
    {"avx512cd", 7, 0, kEbx, 28, Needs::kAvx512State},  {"avx512bw", 7, 0, kEbx, 30, Needs::kAvx512State},
    {"avx512dq", 7, 0, kEbx, 17, Needs::kAvx512State},  {"avx512vl", 7, 0, kEbx, 31, Needs::kAvx512State},
    {"avx512vbmi", 7, 0, kEcx, 1, Needs::kAvx512State}, {"avx512vnni", 7, 0, kEcx, 11, Needs::kAvx512State},
    {"avx512bf16", 7, 1, kEax, 5, Needs::kAvx512State}, {"avx512fp16", 7, 0, kEdx, 23, Needs::kAvx512State},
    {"amx-tile", 7, 0, kEdx, 24, Needs::kAmxState},     {"amx-bf16", 7, 0, kEdx, 22, Needs::kAmxState},
};

/// XCR0, by bytes as compilers without -mxsave lack the intrinsic; 0 where the system does not use XSAVE.
std::uint64_t saved_state() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1U << 27)) == 0)
    return 0;
  std::uint32_t low = 0, high = 0;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

bool available(const X86Feature& feature) {
  const std::uint64_t state = saved_state();
  if ((feature.needs == Needs::kAvxState && (state & 0x6) != 0x6) ||
      (feature.needs == Needs::kAvx512State && (state & 0xe6) != 0xe6) ||
      (feature.needs == Needs::kAmxState && (state & 0x60000) != 0x60000))
    return false;
  unsigned regs[4] = {};
  if (__get_cpuid_count(feature.leaf, feature.subleaf, &regs[0], &regs[1], &regs[2], &regs[3]) == 0)
    return false;
  return ((regs[feature.reg] >> feature.bit) & 1U) != 0;
}

#elif defined(__aarch64__) && defined(__linux__)

// Linux Documentation/arch/arm64/elf_hwcaps.rst; by number, because older headers lack the newer names.
struct Arm64Feature {
  const char* name;
  unsigned long vector;  // AT_HWCAP or AT_HWCAP2
  int bit;
};

constexpr unsigned long kCaps = 16, kCaps2 = 26;
constexpr Arm64Feature kFeatures[] = {
    {"lse", kCaps, 8},   {"rdma", kCaps, 12},    {"crc", kCaps, 7},      {"rcpc", kCaps, 15},
    {"fp16", kCaps, 10}, {"fp16fml", kCaps, 23}, {"dotprod", kCaps, 20}, {"i8mm", kCaps2, 13},
    {"sve", kCaps, 22},  {"bf16", kCaps2, 14},   {"sve2", kCaps2, 1},    {"sme", kCaps2, 23},
};

bool available(const Arm64Feature& feature) {
  return ((getauxval(feature.vector) >> feature.bit) & 1UL) != 0;
}

#elif defined(__aarch64__) && defined(__APPLE__)

// Apple's names: https://developer.apple.com/documentation/kernel/1387446-sysctlbyname
struct AppleFeature {
  const char* name;
  const char* key;
};

constexpr AppleFeature kFeatures[] = {
    {"lse", "hw.optional.arm.FEAT_LSE"},         {"rdma", "hw.optional.arm.FEAT_RDM"},
    {"crc", "hw.optional.armv8_crc32"},          {"rcpc", "hw.optional.arm.FEAT_LRCPC"},
    {"fp16", "hw.optional.arm.FEAT_FP16"},       {"fp16fml", "hw.optional.arm.FEAT_FHM"},
    {"dotprod", "hw.optional.arm.FEAT_DotProd"}, {"i8mm", "hw.optional.arm.FEAT_I8MM"},
    {"bf16", "hw.optional.arm.FEAT_BF16"},       {"sme", "hw.optional.arm.FEAT_SME"},
};

bool available(const AppleFeature& feature) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(feature.key, &value, &size, nullptr, 0) == 0 && value != 0;
}

#else

struct NoFeature {
  const char* name;
};
constexpr NoFeature kFeatures[] = {{""}};

bool available(const NoFeature&) {
  return false;
}

#endif

const char* compiled_names() {
#ifdef MELT_WITH_LLAMA_CPP
  return melt_compiled_cpu_features;
#else
  return "";
#endif
}

}  // namespace

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const auto& feature : kFeatures) {
    if (available(feature))
      names.emplace_back(feature.name);
  }
  return names;
}

std::vector<std::string> compiled_cpu_features() {
  std::istringstream names(compiled_names());
  std::vector<std::string> list;
  for (std::string name; names >> name;)
    list.push_back(name);
  return list;
}

std::vector<std::string> missing_cpu_features(const std::vector<std::string>& needed) {
  const std::vector<std::string> here = cpu_features();
  std::vector<std::string> missing;
  for (const std::string& name : needed) {
    if (std::find(here.begin(), here.end(), name) == here.end())
      missing.push_back(name);
  }
  return missing;
}

std::vector<std::string> missing_cpu_features() {
  return missing_cpu_features(compiled_cpu_features());
}

std::string missing_cpu_features_message() {
  std::string names;
  for (const std::string& name : missing_cpu_features())
    append_item(names, name);
  if (names.empty())
    return "";
  return "llama.cpp was compiled for a CPU with " + names +
         ", which this one lacks: build here, with -DMELT_PORTABLE=ON, or with a lower GGML_CPU_ARM_ARCH";
}

}  // namespace melt
