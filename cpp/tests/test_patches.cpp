// SPDX-License-Identifier: Apache-2.0
// What our patches of llama.cpp promise, beside the op hooks, which have tests of their own.
#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>

#include "ggml-backend.h"

TEST_CASE("the CPU buffers of a graph end at a cache line, whatever its small inputs take") {
  constexpr std::size_t kLine = 64;
  for (const std::size_t size : {4UL, 32UL, 64UL, 96UL, 4097UL, 14'692'384UL}) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    REQUIRE(buffer != nullptr);
    const auto base = reinterpret_cast<std::uintptr_t>(ggml_backend_buffer_get_base(buffer));
    const std::size_t alignment = ggml_backend_buffer_get_alignment(buffer);
    CHECK(base % alignment == 0);
    CHECK((base + size + alignment - 1) / alignment * alignment % kLine == 0);
    CHECK(ggml_backend_buffer_get_size(buffer) == size);
    ggml_backend_buffer_clear(buffer, 1);  // under a sanitizer: all of it is ours
    ggml_backend_buffer_free(buffer);
  }
}
