// SPDX-License-Identifier: Apache-2.0
// A loaded model as Python holds it: with the flag that Ctrl-C and cancel() set.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "melt/error.h"
#include "melt/run.h"

namespace melt::python {

struct PySession {
  std::atomic<bool> cancel{false};
  std::unique_ptr<LoadedModel> model;

  /// Raises: Error(kInvalidArgument) after close().
  LoadedModel& loaded() {
    if (!model || !model->loaded()) {
      throw Error(ErrorKind::kInvalidArgument, "this model has been closed: load it again");
    }
    return *model;
  }
};

}  // namespace melt::python
