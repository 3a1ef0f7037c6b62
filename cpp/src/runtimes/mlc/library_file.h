// SPDX-License-Identifier: Apache-2.0
// What a model library is built for, read from its first bytes: before the system's loader sees it.
#pragma once

#include <string>

namespace melt::mlc {

/// "x86_64", "aarch64", ... of an ELF or Mach-O file. Raises: Error(kModel) if it is neither, or cannot be read.
std::string processor_of(const std::string& path);

/// The processor that this build runs on, by the same names.
const char* host_processor() noexcept;

/// The model library of a directory: `chosen` if that is given, else the only one in `folder` that fits this machine.
/// Raises: Error(kModel) that names what was found.
std::string find_model_library(const std::string& folder, const std::string& chosen);

}  // namespace melt::mlc
