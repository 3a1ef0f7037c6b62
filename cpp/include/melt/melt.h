/* SPDX-License-Identifier: Apache-2.0
 * The core for apps that are not written in C++: load a model, profile it into a trace file, cancel, say what failed.
 * The same measured procedure as everywhere else (run.h). No exception and no abort of ours crosses this interface.
 *
 *   melt_model* model = NULL;
 *   if (melt_model_load("{\"model\": \"/path/a.gguf\", \"prompt\": \"Hello\"}", &model) != MELT_OK ||
 *       melt_model_profile(model, "/path/out.melt", NULL, NULL) != MELT_OK)
 *     fprintf(stderr, "%s\n", melt_last_error());
 *   melt_model_free(model);
 */
#ifndef MELT_MELT_H
#define MELT_MELT_H

#include <stdint.h>

#if defined(__GNUC__)
#define MELT_API __attribute__((visibility("default")))
#else
#define MELT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers of melt::ErrorKind; stored by callers, so none is ever given another meaning. */
typedef enum melt_status {
  MELT_OK = 0,
  MELT_INVALID_ARGUMENT = 1, /* the caller asked for something that cannot be */
  MELT_MODEL = 2,            /* the model file is missing, damaged or not supported */
  MELT_OUT_OF_MEMORY = 3,
  MELT_RUNTIME = 4, /* the inference runtime failed, or this CPU lacks instructions that it was compiled for */
  MELT_TRACE = 5,
  MELT_IO = 6,        /* the operating system refused a read or a write */
  MELT_BUSY = 7,      /* the model is in use by another thread */
  MELT_CANCELLED = 8, /* after melt_model_cancel; a trace that was begun is complete */
} melt_status;

typedef struct melt_model melt_model;

/* Version of the core, such as "0.1.0". */
MELT_API const char* melt_version(void);

/* What the kernels of this build need and this CPU lacks, as "dotprod, fp16"; "" if nothing. */
MELT_API const char* melt_missing_cpu_features(void);

/* Why the last call of this thread failed: one line of UTF-8, valid until its next call; "" after a success. */
MELT_API const char* melt_last_error(void);

/* Loads what `request_json` asks for: an object with the fields of docs/agent_protocol.md, `start`; `model` is a path.
 * *model is the caller's to free; NULL on failure. */
MELT_API melt_status melt_model_load(const char* request_json, melt_model** model);

/* Called between repetitions, on the thread that profiles. */
typedef void (*melt_progress)(void* context, uint32_t repetitions_done, uint32_t repetitions_total);

/* Executes the run that the request asks for, warm-up included, into a new trace file, and returns when it is over.
 * What was measured before a failure is in the file. May be called again, for another trace of the same run.
 * `on_repetition` may be NULL. */
MELT_API melt_status melt_model_profile(melt_model* model, const char* trace_path, melt_progress on_repetition,
                                        void* context);

/* Ends the run under way, and every later one, between two ops. Call from any thread, even in a signal handler. */
MELT_API void melt_model_cancel(melt_model* model);

/* What only an app may ask its system for. Runs sample what is known when they start as sensor "app": tell it before,
 * and whenever it changes, from any thread.
 * `state` as ProcessInfo.ThermalState: 0 nominal, 1 fair, 2 serious, 3 critical; anything else: not known. */
MELT_API void melt_set_thermal_state(int state);

/* `level` as UIDevice.batteryLevel: 0 to 1, -1 not known; `state` as UIDevice.BatteryState: 0 not known, 1 unplugged,
 * 2 charging, 3 full. */
MELT_API void melt_set_battery(double level, int state);

/* Frees the model; no run may be under way. NULL is harmless. */
MELT_API void melt_model_free(melt_model* model);

#ifdef __cplusplus
}
#endif

#endif /* MELT_MELT_H */
