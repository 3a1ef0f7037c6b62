// SPDX-License-Identifier: Apache-2.0
// Names of the instruction set extensions that ggml-cpu was compiled with, a blank before each.
#pragma once

#ifdef __cplusplus
extern "C"
#else
extern
#endif
    const char melt_compiled_cpu_features[];
