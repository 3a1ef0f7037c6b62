"""Products of many tokens: y[m, n] = sum over k of x[m, k] W[n, k].

A thread takes a panel of rows of W, unpacks and turns it once, and runs all tokens over it. With AMX and 4-bit weights
both sides become bfloat16 and products are those of tiles; everything else is computed in float32.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812 (the name that TVM gives it)

from melt_core.models.mlc.compiler.product import Product
from melt_core.models.mlc.compiler.tir import (
    blocks,
    cast,
    const,
    effect,
    kernel,
    load,
    load_f32,
    local,
    reinterpret,
    splat,
    store,
    workspace,
)
from melt_core.models.mlc.quantization import Quantization
from melt_core.models.mlc.targets import Machine

TILE = 16
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def gemm(product: Product, machine: Machine) -> Any:
    """Returns the kernel for any number of tokens."""
    p = product
    tiles = machine.amx and p.q.bits == 4 and p.n % (2 * TILE) == 0 and p.k % 32 == 0

    def body() -> None:
        m = T.int64()
        arguments = p.arguments(m)
        with blocks("gemm"):
            (_tile_gemm if tiles else _vector_gemm)(p, machine, m, *arguments)

    return kernel(body)


# In float32


def _vector_gemm(p: Product, machine: Machine, m: Any, x: Any, w: list[Any], added: list[Any], y: Any) -> None:
    lanes, width = machine.lanes, 2 * machine.lanes
    tokens = 8 if machine.n_registers == 32 else 4
    k = p.q.n_words(p.k) * p.q.per_word if p.q.bits else p.k  # with the empty rest of the last group
    xs = workspace(m * k, "float32")
    with T.parallel(m) as token:
        _copy_row(xs, token * k, x, token * p.k, p.k, lanes)
        with T.serial(k - p.k) as i:
            store(xs, token * k + p.k + i, const(0.0, "float32"))
    with T.parallel(-(-p.n // width)) as block, blocks("panel"):
        panel = workspace(k * width, "float32")
        (_unpack_panel if p.q.bits else _turn_panel)(p, w, panel, block * width, lanes)
        with T.serial(tirx.floordiv(m + tokens - 1, tokens)) as step, blocks("tile"):
            acc = local(tokens * width, "float32")
            rows = [tirx.min(step * tokens + i, m - 1) for i in range(tokens)]
            for i in range(0, tokens * width, lanes):
                store(acc, i, splat(0.0, lanes), lanes)
            with T.serial(k) as at:
                columns = [T.Bind(load(panel, at * width + half * lanes, lanes)) for half in range(2)]
                for i, row in enumerate(rows):
                    value = T.Bind(splat(load(xs, row * k + at), lanes))
                    for half, column in enumerate(columns):
                        place = i * width + half * lanes
                        store(acc, place, load(acc, place, lanes) + value * column, lanes)
            for i, row in enumerate(rows):
                _write_tile_row(p, y, row, block * width, acc, i * width, added, width, lanes)


def _write_tile_row(
    p: Product, y: Any, token: Any, column: Any, acc: Any, at: Any, added: list[Any], width: int, lanes: int
) -> None:
    if p.n % width == 0:
        for i in range(0, width, lanes):
            p.finish(y, token, column + i, load(acc, at + i, lanes), added, lanes)
        return
    with T.serial(tirx.min(width, p.n - column)) as i:
        p.finish(y, token, column + i, load(acc, at + i), added, 1)


def _copy_row(to: Any, to_at: Any, x: Any, x_at: Any, k: int, lanes: int) -> None:
    with T.serial(k // lanes) as i:
        store(to, to_at + i * lanes, load_f32(x, x_at + i * lanes, lanes), lanes)
    with T.serial(k % lanes) as i:
        store(to, to_at + k // lanes * lanes + i, load_f32(x, x_at + k // lanes * lanes + i))


def _turn_panel(p: Product, w: list[Any], panel: Any, first: Any, lanes: int) -> None:
    with T.serial(p.k) as at:
        for lane in range(2 * lanes):
            row = tirx.min(first + lane, p.n - 1)
            store(panel, at * 2 * lanes + lane, load_f32(w[0], row * p.k + at))


def _unpack_panel(p: Product, w: list[Any], panel: Any, first: Any, lanes: int) -> None:
    q, width = p.q, 2 * lanes
    n_words, n_groups, per_group = q.n_words(p.k), q.n_groups(p.k), q.group // q.per_word
    with T.serial(n_groups) as group, blocks("unpack"):
        words, scales = local(width, "uint32"), local(width, "float32")
        for lane in range(width):
            store(scales, lane, load_f32(w[1], tirx.min(first + lane, p.n - 1) * n_groups + group))
        for word in range(per_group):
            at = group * per_group + word
            for lane in range(width):
                store(words, lane, load(w[0], tirx.min(first + lane, p.n - 1) * n_words + at))
            for half in range(0, width, lanes):
                scale = T.Bind(load(scales, half, lanes))
                packed = T.Bind(load(words, half, lanes))
                for place in range(q.per_word):
                    value = _level(packed, place, q, lanes) * scale
                    store(panel, (at * q.per_word + place) * width + half, value, lanes)


def _level(words: Any, place: int, q: Quantization, lanes: int) -> Any:
    """Returns q - max_int of one place in each word, as float32."""
    shifted = words >> splat(const(place * q.bits, "uint32"), lanes)
    level = cast(shifted & splat(const((1 << q.bits) - 1, "uint32"), lanes), "int32", lanes)
    return cast(level - splat(const(q.max_int, "int32"), lanes), "float32", lanes)


# In tiles of bfloat16


def _tile_gemm(p: Product, machine: Machine, m: Any, x: Any, w: list[Any], added: list[Any], y: Any) -> None:
    width = 2 * TILE
    allowed = tirx.call_extern(
        "int64", "syscall", *(const(v, "int64") for v in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    )
    T.evaluate(allowed)
    n_blocks = T.Bind(tirx.floordiv(m + width - 1, width))
    xs = workspace(n_blocks * width * p.k, "uint16")
    with T.parallel(m) as token, T.serial(p.k // TILE) as i:
        at = token * p.k + i * TILE
        bits = reinterpret(load_f32(x, at, TILE), f"uint32x{TILE}")
        odd = (bits >> splat(const(16, "uint32"), TILE)) & splat(const(1, "uint32"), TILE)
        rounded = (bits + odd + splat(const(0x7FFF, "uint32"), TILE)) >> splat(const(16, "uint32"), TILE)
        store(xs, at, cast(rounded, "uint16", TILE), TILE)
    with T.parallel(p.n // width) as block, blocks("panel"):
        panel = workspace(p.k * TILE, "uint32")
        for half in range(2):
            _unpack_pairs(p, w, panel, half * p.k // 2 * TILE, block * width + half * TILE)
        configure_tiles()
        scratch = workspace(width * width, "float32")
        with T.serial(n_blocks) as step:
            _multiply_tiles(p, xs, step * width, panel, scratch)
            with T.serial(tirx.min(const(width, "int64"), m - step * width)) as i:
                _write_tile_row(p, y, step * width + i, block * width, scratch, i * width, added, width, TILE)
        effect("llvm.x86.tilerelease")


def configure_tiles() -> None:
    """Makes all eight tiles 16 rows of 64 bytes."""
    layout = local(64, "uint8")
    for i in range(0, 64, 16):
        store(layout, i, splat(const(0, "uint8"), 16), 16)
    store(layout, 0, const(1, "uint8"))
    for tile in range(8):
        store(layout, 16 + 2 * tile, const(64, "uint8"))
        store(layout, 48 + tile, const(TILE, "uint8"))
    effect("llvm.x86.ldtilecfg", layout.access_ptr("r"))


def tile(number: int) -> Any:
    """Returns the number of a tile as an operand."""
    return const(number, "int8")


def load_tile(number: int, buffer: Any, at: Any, row_bytes: int) -> None:
    """Loads a tile from a place in a flat buffer, its rows `row_bytes` apart."""
    effect("llvm.x86.tileloadd64", tile(number), buffer.access_ptr("r", offset=at), const(row_bytes, "int64"))


def _multiply_tiles(p: Product, xs: Any, token: Any, panel: Any, scratch: Any) -> None:
    """32 tokens times 32 columns: results in tiles 0 to 3, x in 4 and 5, weights in 6 and 7."""
    for number in range(4):
        effect("llvm.x86.tilezero", tile(number))
    with T.serial(p.k // 32) as i:
        for half in range(2):
            load_tile(4 + half, xs, (token + half * TILE) * p.k + i * 32, 2 * p.k)
            load_tile(6 + half, panel, (half * (p.k // 2) + i * TILE) * TILE, 4 * TILE)
        for row in range(2):
            for column in range(2):
                effect("llvm.x86.tdpbf16ps", tile(2 * row + column), tile(4 + row), tile(6 + column))
    for row in range(2):
        for column in range(2):
            place = scratch.access_ptr("w", offset=const(row * TILE * 2 * TILE + column * TILE, "int32"))
            effect("llvm.x86.tilestored64", tile(2 * row + column), place, const(4 * 2 * TILE, "int64"))


def _unpack_pairs(p: Product, w: list[Any], panel: Any, at: Any, first: Any) -> None:
    """Unpacks 16 rows: [k / 2, 16 rows, 2] bfloat16, as tiles want the right side of a product."""
    q = p.q
    n_words, n_groups, per_group = q.n_words(p.k), q.n_groups(p.k), q.group // q.per_word
    high = splat(const(0xFFFF0000, "uint32"), TILE)
    half = splat(const(0x8000, "uint32"), TILE)
    with T.serial(n_groups) as group:
        scale = T.Bind(load_f32(w[1], first * n_groups + group, TILE, stride=n_groups))
        for word in range(per_group):
            words = T.Bind(load(w[0], first * n_words + group * per_group + word, TILE, stride=n_words))
            for pair in range(q.per_word // 2):
                low, up = (
                    reinterpret(_level(words, 2 * pair + i, q, TILE) * scale, f"uint32x{TILE}") + half for i in range(2)
                )
                value = (up & high) | (low >> splat(const(16, "uint32"), TILE))
                place = (group * per_group + word) * (q.per_word // 2) + pair
                store(panel, at + place * TILE, value, TILE)
