// SPDX-License-Identifier: Apache-2.0
// The parts of the MLC adapter that need no TVM. With TVM: tests/integration/test_mlc.py.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "melt/error.h"
#include "runtimes/mlc/kernel_names.h"
#include "runtimes/mlc/library_file.h"
#include "runtimes/mlc/md5.h"
#include "runtimes/mlc/sampler.h"

using namespace melt;
using mlc::op_types_of;
using Types = std::vector<std::string>;

namespace {

std::string md5_of(const std::string& text, std::size_t step) {
  mlc::Md5 md5;
  for (std::size_t at = 0; at < text.size(); at += step)
    md5.add(text.data() + at, std::min(step, text.size() - at));
  return md5.finish();
}

std::string file_of(const char* name, const std::string& bytes) {
  const auto path = std::filesystem::temp_directory_path() / name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

}  // namespace

TEST_CASE("MD5 is that of RFC 1321, however the bytes come") {
  const std::string eighty = "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
  for (const std::size_t step : {1u, 7u, 64u, 1000u}) {
    CHECK(md5_of("", step) == "d41d8cd98f00b204e9800998ecf8427e");
    CHECK(md5_of("abc", step) == "900150983cd24fb0d6963f7d28e17f72");
    CHECK(md5_of(eighty, step) == "57edf4a22be3c955ac49da2e2107b67a");
  }
}

TEST_CASE("kernels have the op types of ggml") {
  CHECK(op_types_of("fused_dequantize3_NT_matmul12_add4") == Types{"MUL_MAT", "ADD"});
  CHECK(op_types_of("q4_NT_gemv_3072x576") == Types{"MUL_MAT"});
  CHECK(op_types_of("rms_norm1") == Types{"RMS_NORM", "MUL"});
  CHECK(op_types_of("fused_split1_silu1_multiply1") == Types{"SWIGLU"});
  CHECK(op_types_of("fused_split_gelu_tanh_multiply") == Types{"GEGLU"});
  CHECK(op_types_of("fused_dequantize_take1") == Types{"GET_ROWS"});
  CHECK(op_types_of("fused_reshape_reshape1") == Types{"CONT"});
  CHECK(op_types_of("dequantize") == Types{"CPY"});
  CHECK(op_types_of("batch_decode_paged_kv_cpu_sliding_window") == Types{"FLASH_ATTN_EXT"});
  CHECK(op_types_of("tir_kv_cache_transpose_append") == Types{"SET_ROWS"});
  CHECK(op_types_of("fused_rope_longrope_scaling") == Types{"ROPE"});
  CHECK(op_types_of("some_kernel_of_mine") == Types{"SOME_KERNEL_OF_MINE"});
  CHECK(mlc::builtin_op_type("vm.builtin.alloc_tensor") == "ALLOC_TENSOR");
}

TEST_CASE("a library tells its processor") {
  std::string elf(64, '\0');
  elf.replace(0, 6, std::string("\177ELF\2\1", 6));
  elf[18] = static_cast<char>(183);
  CHECK(mlc::processor_of(file_of("melt_elf_arm", elf)) == "aarch64");
  elf[18] = 62;
  CHECK(mlc::processor_of(file_of("melt_elf_x86", elf)) == "x86_64");
  CHECK_THROWS_AS(mlc::processor_of(file_of("melt_text", std::string(64, 'x'))), Error);
  CHECK_THROWS_AS(mlc::processor_of(file_of("melt_short", "\177ELF")), Error);
  CHECK_THROWS_AS(mlc::processor_of("/nowhere/at/all"), Error);
}

TEST_CASE("the sampler is greedy at temperature 0, and draws by its seed else") {
  std::vector<float> logits(1000, 0.0f);
  logits[7] = logits[900] = 5.0f;
  logits[3] = NAN;
  mlc::Sampler sampler(logits.size());
  sampler.reset({});
  CHECK(sampler.sample(logits.data(), logits.size()) == 7);
  logits[3] = 0.0f;

  SamplerOptions options;
  options.temperature = 1.0f;
  options.top_p = 1.0f;
  options.top_k = 2;
  options.seed = 11;
  std::map<std::int32_t, int> seen;
  std::vector<std::int32_t> first, second;
  for (auto* drawn : {&first, &second}) {
    sampler.reset(options);
    for (int i = 0; i < 400; ++i)
      drawn->push_back(sampler.sample(logits.data(), logits.size()));
  }
  CHECK(first == second);
  for (const std::int32_t id : first)
    ++seen[id];
  CHECK(seen.size() == 2);
  CHECK(seen[7] > 120);
  CHECK(seen[900] > 120);
}
