// SPDX-License-Identifier: Apache-2.0
#include "md5.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace melt::mlc {
namespace {

struct Sines {
  std::uint32_t values[64];
  Sines() {
    for (int i = 0; i < 64; ++i)
      values[i] = static_cast<std::uint32_t>(std::floor(std::fabs(std::sin(i + 1.0)) * 4294967296.0));  // RFC 1321, 3.4
  }
};

constexpr int kShifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

std::uint32_t rotated(std::uint32_t value, int by) {
  return (value << by) | (value >> (32 - by));
}

}  // namespace

void Md5::block(const unsigned char* bytes) noexcept {
  static const Sines kSines;
  std::uint32_t words[16];
  for (int i = 0; i < 16; ++i) {
    words[i] = static_cast<std::uint32_t>(bytes[4 * i]) | static_cast<std::uint32_t>(bytes[4 * i + 1]) << 8 |
               static_cast<std::uint32_t>(bytes[4 * i + 2]) << 16 | static_cast<std::uint32_t>(bytes[4 * i + 3]) << 24;
  }
  std::uint32_t a = state_[0], b = state_[1], c = state_[2], d = state_[3];
  const auto step = [&](std::uint32_t mixed, int word, int i) {
    const std::uint32_t sum = a + mixed + words[word] + kSines.values[i];
    a = d;
    d = c;
    c = b;
    b += rotated(sum, kShifts[i / 16][i % 4]);
  };
  for (int i = 0; i < 16; ++i)
    step((b & c) | (~b & d), i, i);
  for (int i = 16; i < 32; ++i)
    step((b & d) | (c & ~d), (5 * i + 1) % 16, i);
  for (int i = 32; i < 48; ++i)
    step(b ^ c ^ d, (3 * i + 5) % 16, i);
  for (int i = 48; i < 64; ++i)
    step(c ^ (b | ~d), 7 * i % 16, i);
  state_[0] += a;
  state_[1] += b;
  state_[2] += c;
  state_[3] += d;
}

void Md5::add(const void* data, std::size_t size) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  const std::size_t held = size_ % 64;
  size_ += size;
  if (held > 0) {
    const std::size_t taken = std::min(size, 64 - held);
    std::memcpy(rest_ + held, bytes, taken);
    if (held + taken < 64)
      return;
    block(rest_);
    bytes += taken;
    size -= taken;
  }
  for (; size >= 64; bytes += 64, size -= 64)
    block(bytes);
  std::memcpy(rest_, bytes, size);
}

std::string Md5::finish() {
  const std::uint64_t n_bits = size_ * 8;
  const unsigned char one = 0x80, zero = 0;
  add(&one, 1);
  while (size_ % 64 != 56)
    add(&zero, 1);
  unsigned char length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = static_cast<unsigned char>(n_bits >> (8 * i));
  add(length, 8);
  std::string hex;
  for (const std::uint32_t word : state_) {
    for (int i = 0; i < 4; ++i) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", (word >> (8 * i)) & 0xFF);
      hex += digits;
    }
  }
  return hex;
}

}  // namespace melt::mlc
