/* SPDX-License-Identifier: Apache-2.0
 * The C interface from C: compiled as C, so that melt.h stays C. Called by test_c_api.cpp. Returns the number of the
 * first line whose expectation failed, 0 if all held. */
#include <stddef.h>
#include <string.h>

#include "melt/agent.h"
#include "melt/melt.h"
#include "test_c_api.h"

#define EXPECT(condition) \
  do {                    \
    if (!(condition))     \
      return __LINE__;    \
  } while (0)

static void count(void* context, uint32_t done, uint32_t total) {
  uint32_t* seen = context;
  if (done <= total)
    ++*seen;
}

static void cancel_at_once(void* context, uint32_t done, uint32_t total) {
  (void)done;
  (void)total;
  melt_model_cancel(context);
}

int melt_test_profile(const char* trace_path) {
  static const char* const kRequest =
      "{\"model\": \"layers=2,op_ns=20000\", \"runtime\": \"synthetic\", \"prompt\": \"Hello\", \"max_tokens\": 3,"
      " \"repeats\": 2, \"warmup\": 1, \"n_threads\": 1, \"overhead_budget_s\": 0}";
  melt_model* model = NULL;
  uint32_t seen = 0;
  EXPECT(strlen(melt_version()) > 0);
  EXPECT(melt_model_load(kRequest, &model) == MELT_OK);
  EXPECT(model != NULL);
  EXPECT(strcmp(melt_last_error(), "") == 0);
  EXPECT(melt_model_profile(model, trace_path, count, &seen) == MELT_OK);
  EXPECT(seen == 4); /* before each of three repetitions, and after the last */
  EXPECT(melt_model_profile(model, trace_path, NULL, NULL) == MELT_OK);
  EXPECT(melt_model_profile(model, "/no/such/folder/t.melt", NULL, NULL) == MELT_IO);
  EXPECT(strstr(melt_last_error(), "/no/such/folder") != NULL);
  EXPECT(melt_model_profile(model, trace_path, cancel_at_once, model) == MELT_CANCELLED);
  EXPECT(strlen(melt_last_error()) > 0);
  melt_model_free(model);
  return 0;
}

int melt_test_refusals(void) {
  melt_model* model = (melt_model*)1;
  EXPECT(melt_model_load("{\"runtime\": \"synthetic\"}", &model) == MELT_INVALID_ARGUMENT);
  EXPECT(model == NULL);
  EXPECT(strstr(melt_last_error(), "model") != NULL);
  EXPECT(melt_model_load("{", &model) == MELT_INVALID_ARGUMENT);
  EXPECT(melt_model_load(NULL, &model) == MELT_INVALID_ARGUMENT);
  EXPECT(melt_model_load("{}", NULL) == MELT_INVALID_ARGUMENT);
  EXPECT(melt_model_profile(NULL, "x", NULL, NULL) == MELT_INVALID_ARGUMENT);
  EXPECT(melt_model_load("{\"model\": \"nonsense=1\", \"runtime\": \"synthetic\"}", &model) != MELT_OK);
  EXPECT(model == NULL);
  melt_model_cancel(NULL);
  melt_model_free(NULL);
  return 0;
}
