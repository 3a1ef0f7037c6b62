// SPDX-License-Identifier: Apache-2.0
// Which sensors this machine has.
#include <pybind11/stl.h>

#include "bind.h"
#include "melt/sensor.h"

namespace py = pybind11;

namespace melt::python {

void bind_sensors(py::module_& m) {
  m.def("sensor_names", &sensor_names, "Every kind of sensor that this version knows.");
  m.def("sensors_json", &sensors_json, py::call_guard<py::gil_scoped_release>(),
        "What each of them finds on this machine, or why it is absent: a JSON array.");
}

}  // namespace melt::python
