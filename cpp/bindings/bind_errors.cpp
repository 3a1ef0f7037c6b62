// SPDX-License-Identifier: Apache-2.0
// melt::Error becomes the Python class that melt_core.errors gives for its kind.
#include <pybind11/native_enum.h>

#include "bind.h"
#include "melt/error.h"

namespace py = pybind11;

namespace melt::python {

void bind_errors(py::module_& m) {
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const Error& error) {
      const py::object classes = py::module_::import("melt_core.errors").attr("ERROR_BY_KIND");
      const py::object type = classes[py::int_(static_cast<int>(error.kind()))];
      PyErr_SetString(type.ptr(), error.what());
    }
  });
  py::native_enum<ErrorKind>(m, "ErrorKind", "enum.IntEnum")
      .value("INVALID_ARGUMENT", ErrorKind::kInvalidArgument)
      .value("MODEL", ErrorKind::kModel)
      .value("OUT_OF_MEMORY", ErrorKind::kOutOfMemory)
      .value("RUNTIME", ErrorKind::kRuntime)
      .value("TRACE", ErrorKind::kTrace)
      .value("IO", ErrorKind::kIo)
      .value("BUSY", ErrorKind::kBusy)
      .value("CANCELLED", ErrorKind::kCancelled)
      .finalize();
}

}  // namespace melt::python
