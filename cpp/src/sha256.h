// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), by which files are compared after a transfer and models are told apart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace melt {

class Sha256 {
 public:
  void update(const void* bytes, std::size_t size) noexcept;
  /// The digest in lower-case hexadecimal. Once only.
  std::string hex() noexcept;

 private:
  void block(const std::uint8_t* bytes) noexcept;

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> buffer_{};
  std::uint64_t n_bytes_ = 0;
};

struct FileDigest {
  std::string sha256;
  std::uint64_t bytes = 0;
};

/// Reads an open file from its start to its end. Raises: Error(kIo) that names `name`.
FileDigest digest_file(int file, const std::string& name);

/// Raises: Error(kIo).
FileDigest digest_file(const std::string& path);

}  // namespace melt
