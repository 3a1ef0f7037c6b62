// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <memory>
#include <new>
#include <string>

#include "melt/cpu_features.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "melt/melt.h"
#include "melt/request.h"
#include "require.h"
#include "text_list.h"

struct melt_model {
  melt::ProfileRequest request;
  std::atomic<bool> cancel{false};  // before the model, which looks at it to its end
  std::unique_ptr<melt::LoadedModel> loaded;
};

namespace {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

melt_status fail(melt_status status, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    last_error().clear();
  }
  return status;
}

/// Calls `work`; what it throws becomes a status and a text.
template <typename Work>
melt_status guarded(const Work& work) noexcept {
  last_error().clear();
  try {
    return work();
  } catch (const melt::Error& error) {
    return fail(static_cast<melt_status>(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(MELT_OUT_OF_MEMORY, "memory ran out");
  } catch (const std::exception& error) {
    return fail(MELT_RUNTIME, error.what());
  } catch (...) {
    return fail(MELT_RUNTIME, "an unknown failure");
  }
}

}  // namespace

const char* melt_version(void) {
  return melt::build_version();
}

const char* melt_missing_cpu_features(void) {
  static const std::string names = [] {
    std::string list;
    for (const std::string& name : melt::missing_cpu_features())
      melt::append_item(list, name);
    return list;
  }();
  return names.c_str();
}

const char* melt_last_error(void) {
  return last_error().c_str();
}

melt_status melt_model_load(const char* request_json, melt_model** model) {
  return guarded([&] {
    melt::require(model != nullptr, "melt_model_load: `model` is NULL: give a place for the result");
    *model = nullptr;
    melt::require(request_json != nullptr, "melt_model_load: the request is NULL: give a JSON object");
    auto made = std::make_unique<melt_model>();
    made->request = melt::parse_request(request_json);
    melt::ModelOptions options = made->request.model;
    const std::atomic<bool>& cancel = made->cancel;
    options.cancel = &cancel;
    options.on_progress = [&cancel](float) { return !cancel.load(); };
    made->loaded = std::make_unique<melt::LoadedModel>(made->request.runtime, options);
    *model = made.release();
    return MELT_OK;
  });
}

melt_status melt_model_profile(melt_model* model, const char* trace_path, melt_progress on_repetition, void* context) {
  return guarded([&] {
    melt::require(model != nullptr, "melt_model_profile: the model is NULL: load one first");
    melt::require(trace_path != nullptr, "melt_model_profile: the path of the trace is NULL");
    melt::ProfileHooks hooks;
    hooks.unload = false;
    if (on_repetition != nullptr)
      hooks.on_repetition = [&](std::uint32_t done, std::uint32_t total, const melt::Profiler&) {
        on_repetition(context, done, total);
      };
    const melt::RunResult result = melt::profile_to_file(*model->loaded, model->request, trace_path, hooks);
    if (result.cancelled)
      throw melt::Error(melt::ErrorKind::kCancelled, "cancelled; what was measured before is in the trace");
    return MELT_OK;
  });
}

void melt_model_cancel(melt_model* model) {
  if (model != nullptr)
    model->cancel.store(true);
}

void melt_model_free(melt_model* model) {
  delete model;
}
