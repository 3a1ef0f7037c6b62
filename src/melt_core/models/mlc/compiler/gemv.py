"""Products of one token: y[n] = sum over k of W[n, k] x[k], bound by how fast weights come from memory.

Rows are shared out among threads; a few rows at a time read x from the cache once.
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
    kernel,
    load,
    load_f32,
    local,
    max_lanes,
    prefetch,
    pure,
    reinterpret,
    segments,
    shuffle,
    splat,
    store,
    sum_lanes,
    workspace,
)
from melt_core.models.mlc.quantization import Quantization
from melt_core.models.mlc.targets import Machine

ROWS = 4
#: How many blocks of rows ahead memory is asked for: processors look ahead too, but stop at the end of a page.
PREFETCH_BLOCKS = 4


def gemv(product: Product, machine: Machine) -> Any:
    """Returns the kernel for one token."""

    def body() -> None:
        x, w, added, y = product.arguments(1)
        with blocks("gemv"):
            (_packed if product.q.bits else _dense)(product, machine, x, w, added, y)

    return kernel(body)


def _dense(p: Product, machine: Machine, x: Any, w: list[Any], added: list[Any], y: Any) -> None:
    with T.parallel(-(-p.n // ROWS)) as block, blocks("rows"):
        rows = [tirx.min(block * ROWS + r, p.n - 1) for r in range(ROWS)]
        sums = local(ROWS, "float32")
        _dense_rows(x, w[0], sums, rows, p.k, machine.lanes)
        for r, row in enumerate(rows):
            p.finish(y, 0, row, load(sums, r), added, 1)


def _dense_rows(x: Any, w: Any, sums: Any, rows: list[Any], k: int, lanes: int) -> None:
    parts = []
    for first, count, width in segments(k, lanes):
        acc = _zeros(width)
        parts.append((width, acc))
        with T.serial(count) as step:
            at = first + step * width
            xs = T.Bind(load_f32(x, at, width))
            for r, row in enumerate(rows):
                old = load(acc, r * width, width)
                store(acc, r * width, old + xs * load_f32(w, row * k + at, width), width)
    _add_up(parts, sums)


def _zeros(width: int) -> Any:
    """Allocates a vector of sums for each row."""
    acc = local(ROWS * width, "float32")
    for r in range(ROWS):
        store(acc, r * width, splat(0.0, width), width)
    return acc


def _add_up(parts: list[tuple[int, Any]], sums: Any) -> None:
    """Adds the lanes of each row's sums, which were kept in vectors of falling width."""
    for r in range(ROWS):
        lanes, total = parts[0][0], load(parts[0][1], r * parts[0][0], parts[0][0])
        for width, acc in parts[1:]:
            total = sum_lanes(total, lanes, down_to=width) + load(acc, r * width, width)
            lanes = width
        store(sums, r, sum_lanes(total, lanes))


class PackedInput:
    """x as bytes, a scale for each group, and what the offset of the weights takes away, as the products want it.

    Lane i of a vector belongs to word i of a row. Weights are q - max_int with q >= 0, so that
    sum (q - max_int) x = sum q x - max_int sum x: the second part starts the sum.
    """

    def __init__(self, n_words: int, quantization: Quantization, machine: Machine) -> None:
        q = quantization
        self.by_bytes = machine.vnni and q.bits == 4
        n = 2 if self.by_bytes else q.per_word
        self.parts = [workspace(n_words, "uint32" if self.by_bytes else "int32") for _ in range(n)]
        self.start = workspace(n_words, "int32")
        self.scale = workspace(n_words, "float32")


def _packed(p: Product, machine: Machine, x: Any, w: list[Any], added: list[Any], y: Any) -> None:
    """Weights times x in bytes: a scale for each group of x, as in ggml's q8."""
    q = p.q
    packed = PackedInput(q.n_words(p.k), q, machine)
    with T.serial(q.n_groups(p.k)) as group, blocks("pack"):
        _pack_group(x, packed, group, p.k, q)
    with T.parallel(-(-p.n // ROWS)) as block, blocks("rows"):
        rows = [tirx.min(block * ROWS + r, p.n - 1) for r in range(ROWS)]
        sums = local(ROWS, "float32")
        _packed_rows(p, packed, w, sums, rows, machine)
        for r, row in enumerate(rows):
            p.finish(y, 0, row, load(sums, r), added, 1)


def _packed_rows(p: Product, packed: PackedInput, w: list[Any], sums: Any, rows: list[Any], machine: Machine) -> None:
    q = p.q
    n_words, per_group = q.n_words(p.k), q.group // q.per_word
    parts = []
    for first, count, width in segments(n_words, machine.lanes):
        acc = _zeros(width)
        parts.append((width, acc))
        with T.serial(count) as step:
            at = first + step * width
            scale = T.Bind(load(packed.scale, at, width))
            for r, row in enumerate(rows):
                if machine.shared:  # TVM 0.27 cannot rename functions that take an address, as it does for archives
                    prefetch(w[0], (row + PREFETCH_BLOCKS * ROWS) * n_words + at)
                words = T.Bind(load(w[0], row * n_words + at, width))
                products = cast(_products(words, packed, at, width, q), "float32", width)
                scales = _spread(w[1], row * q.n_groups(p.k) + tirx.floordiv(at, per_group), width, per_group)
                store(acc, r * width, load(acc, r * width, width) + products * (scales * scale), width)
    _add_up(parts, sums)


def _spread(s: Any, at: Any, width: int, per_group: int) -> Any:
    """Returns a scale for each lane: those of a group's words are the same."""
    n = width // per_group
    if n <= 1:
        return splat(load_f32(s, at), width)
    return shuffle(load_f32(s, at, n), [lane // per_group for lane in range(width)], n)


def _products(words: Any, packed: PackedInput, at: Any, width: int, q: Quantization) -> Any:
    """Returns for each lane the sum of products of a word's weights, in 32 bits."""
    total = load(packed.start, at, width)
    if packed.by_bytes:
        mask = splat(const(0x0F0F0F0F, "uint32"), width, "uint32")
        bytes_type = f"uint8x{4 * width}"
        for part, low in enumerate((words, words >> splat(const(4, "uint32"), width, "uint32"))):
            weights = reinterpret(low & mask, bytes_type)
            xs = reinterpret(load(packed.parts[part], at, width), bytes_type)
            name = f"llvm.x86.avx512.vpdpbusd.{32 * width}"
            total = pure(f"int32x{width}", name, total, weights, xs)
        return total
    mask = splat(const((1 << q.bits) - 1, "uint32"), width, "uint32")
    for place in range(q.per_word):
        level = (words >> splat(const(place * q.bits, "uint32"), width, "uint32")) & mask
        total = total + cast(level, "int32", width) * load(packed.parts[place], at, width)
    return total


def _pack_group(x: Any, packed: PackedInput, group: Any, k: int, q: Quantization) -> None:
    """Turns a group of x into bytes: x = byte * scale, the scale being the largest magnitude / 127."""
    per_group = q.group // q.per_word
    values = local(q.group, "float32")
    if k % q.group == 0:
        width = 8
        for i in range(0, q.group, width):
            store(values, i, load_f32(x, group * q.group + i, width), width)
    else:  # what is not there is 0
        with T.serial(q.group) as i:
            at = group * q.group + i
            inside = tirx.if_then_else(at < k, load_f32(x, at), const(0.0, "float32"))
            store(values, i, inside)
    top = splat(0.0, 8)
    for i in range(0, q.group, 8):
        top = T.Bind(tirx.max(top, pure("float32x8", "llvm.fabs", load(values, i, 8))))
    scale = T.Bind(max_lanes(top, 8) * const(1 / 127, "float32"))
    inverse = T.Bind(
        tirx.if_then_else(scale > const(0.0, "float32"), const(1.0, "float32") / scale, const(0.0, "float32"))
    )
    numbers = local(q.group, "int32")
    for i in range(0, q.group, 8):
        rounded = pure("float32x8", "llvm.rint", load(values, i, 8) * splat(inverse, 8))
        store(numbers, i, cast(rounded, "int32", 8), 8)
    for word in range(per_group):
        at = group * per_group + word
        places = [load(numbers, word * q.per_word + place) for place in range(q.per_word)]
        total = places[0]
        for place in places[1:]:
            total = total + place
        store(packed.start, at, total * const(-q.max_int, "int32"))
        store(packed.scale, at, scale)
        if packed.by_bytes:
            for part in range(2):
                value = const(0, "uint32")
                for byte in range(4):
                    low = cast(places[2 * byte + part], "uint32", 1) & const(255, "uint32")
                    value = value | (low << const(8 * byte, "uint32"))
                store(packed.parts[part], at, value)
        else:
            for place in range(q.per_word):
                store(packed.parts[place], at, places[place])
