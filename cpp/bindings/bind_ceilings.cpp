// SPDX-License-Identifier: Apache-2.0
// The machine's ceilings.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <optional>

#include "bind.h"
#include "interrupt.h"
#include "melt/ceilings.h"

namespace py = pybind11;

namespace melt::python {
namespace {

using OnProgress = std::function<void(const std::string&, double)>;

CeilingResult measure(const std::vector<std::uint32_t>& thread_counts, bool pin_threads, bool huge_pages,
                      bool sequential_reads, double measurement_s, std::uint64_t max_memory_bytes,
                      const std::optional<OnProgress>& on_progress) {
  std::atomic<bool> cancel{false};
  std::exception_ptr raised;  // by the callback, which is how a caller cancels
  CeilingOptions options;
  options.thread_counts = thread_counts;
  options.pin_threads = pin_threads;
  options.huge_pages = huge_pages;
  options.sequential_reads = sequential_reads;
  options.measurement_s = measurement_s;
  options.max_memory_bytes = max_memory_bytes;
  options.cancel = &cancel;
  if (on_progress) {
    options.on_progress = [&](const std::string& label, double done) {  // pybind11 takes the GIL around the call
      try {
        (*on_progress)(label, done);
      } catch (...) {
        raised = std::current_exception();
        cancel.store(true);
      }
    };
  }
  try {
    const py::gil_scoped_release release;
    const InterruptScope interrupt(cancel);
    return measure_ceilings(options);
  } catch (...) {
    if (raised)
      std::rethrow_exception(raised);
    if (PyErr_CheckSignals() != 0)
      throw py::error_already_set();
    throw;
  }
}

}  // namespace

void bind_ceilings(py::module_& m) {
  py::enum_<CeilingKind>(m, "CeilingKind", "What a ceiling limits.")
      .value("read_bandwidth", CeilingKind::kReadBandwidth)
      .value("flops", CeilingKind::kFlops);
  py::class_<Ceiling>(m, "Ceiling", "One measured ceiling, in bytes/s or flop/s.")
      .def_readonly("kind", &Ceiling::kind)
      .def_readonly("name", &Ceiling::name)
      .def_readonly("working_set_bytes", &Ceiling::working_set_bytes, "Of all threads; 0 for arithmetic.")
      .def_readonly("n_threads", &Ceiling::n_threads)
      .def_readonly("best", &Ceiling::best)
      .def_readonly("median", &Ceiling::median)
      .def_readonly("n_rounds", &Ceiling::n_rounds);
  py::class_<AbsentCeiling>(m, "AbsentCeiling", "One that cannot be measured here.")
      .def_readonly("kind", &AbsentCeiling::kind)
      .def_readonly("name", &AbsentCeiling::name)
      .def_readonly("n_threads", &AbsentCeiling::n_threads, "0: whatever their number.")
      .def_readonly("reason", &AbsentCeiling::reason);
  py::class_<CeilingResult>(m, "CeilingResult", "All of them.")
      .def_readonly("ceilings", &CeilingResult::ceilings)
      .def_readonly("absent", &CeilingResult::absent)
      .def_readonly("notes", &CeilingResult::notes)
      .def_readonly("read_instructions", &CeilingResult::read_instructions)
      .def_readonly("pinned", &CeilingResult::pinned);
  m.def("measure_ceilings", &measure, py::kw_only(), py::arg("thread_counts"), py::arg("pin_threads"),
        py::arg("huge_pages"), py::arg("sequential_reads"), py::arg("measurement_s"), py::arg("max_memory_bytes"),
        py::arg("on_progress"),
        "Measures bandwidth and arithmetic ceilings with the GIL released. What on_progress raises ends it.");
}

}  // namespace melt::python
