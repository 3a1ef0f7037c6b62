// SPDX-License-Identifier: Apache-2.0
// melt::Error becomes the Python class that melt_core.errors gives for its kind.
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <string_view>

#include "bind.h"
#include "melt/error.h"

namespace py = pybind11;

namespace melt::python {

void bind_errors(py::module_& m) {
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending)
        std::rethrow_exception(pending);
    } catch (const Error& error) {
      const py::object classes = py::module_::import("melt_core.errors").attr("ERROR_BY_KIND");
      const py::object type = classes[py::int_(static_cast<int>(error.kind()))];
      // A message may quote bytes of a file or a path, which need not be UTF-8.
      const std::string_view text = error.what();
      const auto message = py::reinterpret_steal<py::object>(
          PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
      PyErr_SetObject(type.ptr(), message.ptr());
    }
  });
  m.def(
      "error_kinds",
      [] {
        return std::map<std::string, int>{
            {"INVALID_ARGUMENT", static_cast<int>(ErrorKind::kInvalidArgument)},
            {"MODEL", static_cast<int>(ErrorKind::kModel)},
            {"OUT_OF_MEMORY", static_cast<int>(ErrorKind::kOutOfMemory)},
            {"RUNTIME", static_cast<int>(ErrorKind::kRuntime)},
            {"TRACE", static_cast<int>(ErrorKind::kTrace)},
            {"IO", static_cast<int>(ErrorKind::kIo)},
            {"BUSY", static_cast<int>(ErrorKind::kBusy)},
            {"CANCELLED", static_cast<int>(ErrorKind::kCancelled)},
        };
      },
      "Name -> number of each kind, so that a test can compare them with melt_core.errors.");
}

}  // namespace melt::python
