// SPDX-License-Identifier: Apache-2.0
// What a kernel does, from the name that TVM's compiler gave it: "fused_dequantize3_NT_matmul12_add4" multiplies and
// adds. The words are those of ggml, so that both runtimes share one table.
#pragma once

#include <string>
#include <vector>

namespace melt::mlc {

/// Op types of a kernel in order: {"MUL_MAT", "ADD"}. A name without a known word gives itself in capitals.
std::vector<std::string> op_types_of(const std::string& kernel);

/// Op type of a function of the machine: "vm.builtin.alloc_tensor" is ALLOC_TENSOR.
std::string builtin_op_type(const std::string& function);

}  // namespace melt::mlc
