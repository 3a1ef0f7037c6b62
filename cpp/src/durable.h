// SPDX-License-Identifier: Apache-2.0
// What survives a loss of power: bytes that the system was told to bring to the disk. Never while a run is measured.
#pragma once

#include <string>

namespace melt {

/// Waits until what was written to an open file or directory is on the disk. Returns false, with errno, if the disk
/// refuses it; a file that has no disk (a pipe, a device) has nothing to wait for.
bool bring_to_disk(int descriptor) noexcept;

/// The same for the name of a file: its directory. Returns false, with errno.
bool bring_name_to_disk(const std::string& path);

}  // namespace melt
