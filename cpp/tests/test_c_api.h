/* SPDX-License-Identifier: Apache-2.0
 * Between test_c_api.c and test_c_api.cpp. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif
int melt_test_profile(const char* trace_path);
int melt_test_refusals(void);
#ifdef __cplusplus
}
#endif
