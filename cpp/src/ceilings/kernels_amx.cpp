// SPDX-License-Identifier: Apache-2.0
#include "kernels_amx.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace melt::ceilings {
namespace {

constexpr int kRows = 16, kRowBytes = 64, kTileBytes = kRows * kRowBytes;

/// What ldtilecfg reads: palette 1, all eight tiles 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

/// By hand: GCC 12's own declares 8 bytes of input, and the rest of the configuration is optimised away.
inline void load_config(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

/// The compilers' tile loads and stores do not say what memory they touch.
inline void memory_barrier() {
  __asm__ volatile("" : : : "memory");
}

/// Fills tiles 4 to 7 from `operand` and clears tiles 0 to 3.
__attribute__((target("amx-tile"))) inline void load_tiles(const void* operand) {
  load_config(TileConfig{});
  memory_barrier();
  _tile_loadd(4, operand, kRowBytes);
  _tile_loadd(5, operand, kRowBytes);
  _tile_loadd(6, operand, kRowBytes);
  _tile_loadd(7, operand, kRowBytes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

__attribute__((target("amx-tile"))) inline void store_tiles(std::uint8_t* tiles) {
  _tile_stored(0, tiles, kRowBytes);
  _tile_stored(1, tiles + kTileBytes, kRowBytes);
  _tile_stored(2, tiles + 2 * kTileBytes, kRowBytes);
  _tile_stored(3, tiles + 3 * kTileBytes, kRowBytes);
  memory_barrier();
  _tile_release();
}

}  // namespace

__attribute__((target("amx-tile,amx-int8"))) double int8_amx(std::uint64_t passes) {
  alignas(64) std::uint8_t operand[kTileBytes], tiles[4 * kTileBytes];
  std::memset(operand, 1, sizeof operand);
  load_tiles(operand);
  for (; passes > 0; --passes) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  store_tiles(tiles);
  std::int32_t sums[kTileBytes];
  std::memcpy(sums, tiles, sizeof sums);
  return sum_of(sums, kTileBytes);
}

__attribute__((target("amx-tile,amx-bf16"))) double bf16_amx(std::uint64_t passes) {
  std::uint16_t operand[kTileBytes / 2];
  alignas(64) std::uint8_t tiles[4 * kTileBytes];
  for (std::uint16_t& value : operand)
    value = 0x3f80;  // 1.0
  load_tiles(operand);
  for (; passes > 0; --passes) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  store_tiles(tiles);
  float sums[kTileBytes];
  std::memcpy(sums, tiles, sizeof sums);
  return sum_of(sums, kTileBytes);
}

}  // namespace melt::ceilings

#endif
