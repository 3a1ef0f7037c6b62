// SPDX-License-Identifier: Apache-2.0
// Numbers and errors of docs/agent_protocol.md.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace melt::agent {

constexpr int kProtocol = 1;
constexpr std::size_t kMaxLineBytes = std::size_t{1} << 20;

/// Another host, or a run, has the device. The same request may succeed later.
class DeviceBusy : public std::runtime_error {
 public:
  DeviceBusy(const std::string& message, std::string holder)
      : std::runtime_error(message), holder_(std::move(holder)) {}
  const std::string& holder() const noexcept { return holder_; }

 private:
  std::string holder_;
};

}  // namespace melt::agent
