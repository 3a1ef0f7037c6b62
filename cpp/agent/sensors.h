// SPDX-License-Identifier: Apache-2.0
// Which sensors this device shows to this user: each kind is listed, with the reason where there is none.
#pragma once

#include <string>

namespace melt::agent {

/// An array of {site, kind, unit, source, available, reason?}, from the kernel's sysfs under `root`.
std::string sensors_json(const std::string& root);

}  // namespace melt::agent
