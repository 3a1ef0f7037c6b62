// SPDX-License-Identifier: Apache-2.0
// Model files and the runtimes of this build.
#include <pybind11/stl.h>

#include "bind.h"
#include "melt/counters.h"
#include "melt/environment.h"
#include "melt/gguf.h"
#include "melt/runtime.h"

namespace py = pybind11;

namespace melt::python {

namespace {

/// A file may hold anything: bytes that are no UTF-8 become U+FFFD.
py::str text(const std::string& bytes) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace"));
}

std::vector<std::pair<py::str, py::str>> metadata(const GgufHeader& header) {
  std::vector<std::pair<py::str, py::str>> pairs;
  for (const auto& [key, value] : header.metadata)
    pairs.emplace_back(text(key), text(value));
  return pairs;
}

}  // namespace

void bind_models(py::module_& m) {
  py::class_<GgufTensor>(m, "GgufTensor", "One tensor of a GGUF file.")
      .def_property_readonly("name", [](const GgufTensor& self) { return text(self.name); })
      .def_readonly("shape", &GgufTensor::shape, "Slowest axis first.")
      .def_readonly("type", &GgufTensor::type, "ggml's name of the type, such as q4_1.")
      .def_readonly("offset_bytes", &GgufTensor::offset_bytes)
      .def_readonly("size_bytes", &GgufTensor::size_bytes);

  py::class_<GgufHeader>(m, "GgufHeader", "The header of a GGUF file.")
      .def_readonly("version", &GgufHeader::version)
      .def_readonly("file_bytes", &GgufHeader::file_bytes)
      .def_property_readonly("metadata", &metadata, "(key, value) pairs as text, in file order.")
      .def_readonly("tensors", &GgufHeader::tensors);

  m.def(
      "read_gguf",
      [](const py::bytes& path_bytes) {
        const std::string path = path_bytes;
        const py::gil_scoped_release release;
        return read_gguf(path);
      },
      py::arg("path"), "Reads and checks the header of a GGUF file.");
  m.def("runtime_names", &runtime_names, "Names of the runtimes compiled into this build.");
  m.def(
      "runtime_details", [](const std::string& name) { return make_runtime(name)->details(); }, py::arg("name"),
      "Version, commit and CPU kernels of a runtime, as (key, value) pairs.");
  m.def("device_json", &device_json, "What this machine is, as a JSON object.");
  m.def("counters_json", &counters_json, "What can be counted per op here, as a JSON object.");
  m.def("build_json", &build_json, "How this module was built, as a JSON object.");
  m.def("counter_is_invariant", &counter_is_invariant, "Whether the cycle counter runs at one rate.");
}

}  // namespace melt::python
