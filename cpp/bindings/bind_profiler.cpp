// SPDX-License-Identifier: Apache-2.0
// The measured procedure.
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>
#include <optional>

#include "bind.h"
#include "py_session.h"

namespace py = pybind11;

namespace melt::python {
namespace {

/// A profiler with the file that its trace goes to.
class PyProfiler {
 public:
  PyProfiler(PySession& session, const py::bytes& path, std::uint32_t levels, const std::string& metadata_json,
             std::size_t log_bytes, bool watch_switches, const std::vector<std::string>& sensors, double sensor_hz)
      : session_(session),
        sink_(make_file_sink(path)),
        profiler_(session.loaded(), *sink_, levels, metadata_json, {log_bytes, watch_switches}, {sensors, sensor_hz}) {}

  RunResult run(const RunOptions& options,
                const std::optional<std::function<void(std::uint32_t, std::uint32_t)>>& on_repetition) {
    RunResult result;
    measure([&] { result = on_repetition ? profiler_.run(options, *on_repetition) : profiler_.run(options); });
    return result;
  }

  void sample_idle(double seconds) {
    measure([&] { profiler_.sample_idle(seconds); });
  }

  void mark() {
    measure([&] { profiler_.mark(); });
  }

  void refuse() noexcept { profiler_.refuse(); }

  bool finish() {
    session_.refuse_within_run("finish()");
    const py::gil_scoped_release release;
    const bool kept = profiler_.finish();
    sink_.reset();  // so that the next profile may write the same file
    return kept;
  }

 private:
  /// Without the GIL. What was measured before Ctrl-C is in the trace by the time that KeyboardInterrupt is raised.
  template <typename Action>
  void measure(const Action& action) {
    const RunScope scope(session_);
    {
      const py::gil_scoped_release release;
      action();
    }
    if (PyErr_CheckSignals() != 0)
      throw py::error_already_set();
  }

  PySession& session_;
  std::unique_ptr<ByteSink> sink_;  // null once finished: the profiler writes no more
  Profiler profiler_;
};

RunOptions make_options(const std::string& prompt, bool parse_special, bool chat,
                        const std::vector<std::int32_t>& prompt_ids, std::optional<std::uint32_t> prompt_tokens,
                        std::uint32_t max_tokens, bool ignore_eos, std::uint32_t repeats, std::uint32_t warmup,
                        float temperature, std::int32_t top_k, float top_p, std::uint32_t seed,
                        double overhead_budget_s, const std::vector<std::int32_t>& forced_ids, bool keep_logits,
                        double idle_s, bool marker) {
  RunOptions options;
  options.prompt = prompt;
  options.parse_special = parse_special;
  options.chat = chat;
  options.prompt_ids = prompt_ids;
  options.prompt_tokens = prompt_tokens;
  options.max_tokens = max_tokens;
  options.ignore_eos = ignore_eos;
  options.repeats = repeats;
  options.warmup = warmup;
  options.sampler = {temperature, top_k, top_p, seed};
  options.overhead_budget_s = overhead_budget_s;
  options.forced_ids = forced_ids;
  options.keep_logits = keep_logits;
  options.idle_s = idle_s;
  options.marker = marker;
  return options;
}

}  // namespace

void bind_profiler(py::module_& m) {
  m.def(
      "levels",
      [] {
        py::typing::Dict<py::str, py::int_> levels;
        for (const LevelName& each : kLevelNames)
          levels[each.name] = each.level;
        return levels;
      },
      "What can be recorded, and its bit in the mask.");

  py::class_<RunOptions>(m, "RunOptions", "What a run is to do.")
      .def(py::init(&make_options), py::kw_only(), py::arg("prompt"), py::arg("parse_special"), py::arg("chat"),
           py::arg("prompt_ids"), py::arg("prompt_tokens"), py::arg("max_tokens"), py::arg("ignore_eos"),
           py::arg("repeats"), py::arg("warmup"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"),
           py::arg("seed"), py::arg("overhead_budget_s"), py::arg("forced_ids"), py::arg("keep_logits"),
           py::arg("idle_s"), py::arg("marker"));

  py::class_<RunResult>(m, "RunResult", "What a run gave; its times are in the trace.")
      .def_readonly("prompt_ids", &RunResult::prompt_ids)
      .def_readonly("output_ids", &RunResult::output_ids)
      .def_property_readonly("output_text", [](const RunResult& self) { return py::bytes(self.output_text); })
      .def_readonly("n_runs", &RunResult::n_runs)
      .def_readonly("cancelled", &RunResult::cancelled);

  py::class_<PyProfiler>(m, "Profiler", "Measures runs of one session into one trace.")
      .def(py::init<PySession&, py::bytes, std::uint32_t, std::string, std::size_t, bool, std::vector<std::string>,
                    double>(),
           py::keep_alive<1, 2>(), py::arg("session"), py::arg("path"), py::kw_only(), py::arg("levels"),
           py::arg("metadata_json"), py::arg("log_bytes"), py::arg("watch_switches"), py::arg("sensors"),
           py::arg("sensor_hz"))
      .def("run", &PyProfiler::run, py::arg("options"), py::arg("on_repetition"),
           "Runs warm-up and repetitions with the GIL released.")
      .def("sample_idle", &PyProfiler::sample_idle, py::arg("seconds"),
           "Reads the sensors for so long while nothing runs, with the GIL released.")
      .def("mark", &PyProfiler::mark, "Makes pulses of load for a power meter, with the GIL released.")
      .def("refuse", &PyProfiler::refuse, "Notes that something was refused before run() or its like was called.")
      .def("finish", &PyProfiler::finish, "Closes the trace; False if nothing was measured, and so nothing written.");
}

}  // namespace melt::python
