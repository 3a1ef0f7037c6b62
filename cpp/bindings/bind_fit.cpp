// SPDX-License-Identifier: Apache-2.0
// What a model would need, and what this device has.
#include <pybind11/stl.h>

#include "bind.h"
#include "melt/environment.h"
#include "melt/runtime.h"

namespace py = pybind11;

namespace melt::python {

void bind_fit(py::module_& m) {
  py::class_<MemoryPart>(m, "MemoryPart", "What a session holds of one kind in one kind of buffer.")
      .def_readonly("category", &MemoryPart::category)
      .def_readonly("buffer", &MemoryPart::buffer)
      .def_readonly("bytes", &MemoryPart::bytes);

  py::class_<MemoryForecast>(m, "MemoryForecast", "What a session would hold.")
      .def_readonly("parts", &MemoryForecast::parts)
      .def_readonly("n_ctx", &MemoryForecast::n_ctx)
      .def_readonly("process_resident_bytes", &MemoryForecast::process_resident_bytes)
      .def_readonly("process_reserved_bytes", &MemoryForecast::process_reserved_bytes);

  py::class_<DeviceMemory>(m, "DeviceMemory", "Memory that this process may use.")
      .def_readonly("total_bytes", &DeviceMemory::total_bytes, "2**64 - 1: the system does not say.")
      .def_readonly("available_bytes", &DeviceMemory::available_bytes, "2**64 - 1: the system does not say.")
      .def_readonly("source", &DeviceMemory::source, "The file that decided, or why there is none.");

  m.def(
      "predict_memory",
      [](const std::string& runtime, const py::bytes& path, const std::string& runtime_path, std::uint32_t n_ctx,
         std::uint32_t n_batch, std::uint32_t n_ubatch, bool use_mmap, bool repack, const std::string& kv_type) {
        ModelOptions options;
        options.path = path;
        options.runtime_path = runtime_path;
        options.n_ctx = n_ctx;
        options.n_batch = n_batch;
        options.n_ubatch = n_ubatch;
        options.use_mmap = use_mmap;
        options.repack = repack;
        options.kv_type = kv_type;
        const py::gil_scoped_release release;
        return make_runtime(runtime)->predict_memory(options);
      },
      py::arg("runtime"), py::arg("path"), py::kw_only(), py::arg("runtime_path"), py::arg("n_ctx"), py::arg("n_batch"),
      py::arg("n_ubatch"), py::arg("use_mmap"), py::arg("repack"), py::arg("kv_type"),
      "Sizes of what loading would allocate, from the file's header.");
  m.def("device_memory", &device_memory, py::arg("root"), "Memory of this device or of its cgroup.");
}

}  // namespace melt::python
