// SPDX-License-Identifier: Apache-2.0
// The private module melt_core._core. Public names live in Python; only melt_core.runtime imports this.
#include "bind.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of melt_core. Private: use the names in melt_core.";
  melt::python::bind_errors(m);
  melt::python::bind_fit(m);
  melt::python::bind_models(m);
  melt::python::bind_sessions(m);
  melt::python::bind_profiler(m);
  melt::python::bind_sensors(m);
  melt::python::bind_trace_format(m);
  melt::python::bind_ceilings(m);
}
