// SPDX-License-Identifier: Apache-2.0
// One registering function for each concept, called by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace melt::python {

void bind_ceilings(pybind11::module_& m);
void bind_errors(pybind11::module_& m);
void bind_fit(pybind11::module_& m);
void bind_models(pybind11::module_& m);
void bind_sessions(pybind11::module_& m);
void bind_profiler(pybind11::module_& m);
void bind_sensors(pybind11::module_& m);
void bind_trace_format(pybind11::module_& m);

}  // namespace melt::python
