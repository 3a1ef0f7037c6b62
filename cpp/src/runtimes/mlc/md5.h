// SPDX-License-Identifier: Apache-2.0
// MD5 (RFC 1321): the checksum that tensor-cache.json gives for each shard.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace melt::mlc {

class Md5 {
 public:
  void add(const void* data, std::size_t size) noexcept;
  /// 32 lower-case hex digits of all that was added. Ends it.
  std::string finish();

 private:
  void block(const unsigned char* bytes) noexcept;

  std::uint32_t state_[4] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476};
  std::uint64_t size_ = 0;
  unsigned char rest_[64] = {};
};

}  // namespace melt::mlc
