"""Attention over the pages of TVM's KV cache: the functions that `paged_attention_kv_cache_create` is given.

Signatures are those of tvm/relax/frontend/nn/llm (0.27). Softmax runs along as keys come, 16 positions at a time, so
that scores are never stored; a page holds 16 positions. Rotation happens before, in `rope`: `rotary_mode` is not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812 (the name that TVM gives it)

from melt_core.models.mlc.compiler.tir import (
    argument,
    blocks,
    const,
    exp,
    kernel,
    load,
    local,
    max_lanes,
    segments,
    splat,
    store,
    sum_lanes,
    vector_type,
)
from melt_core.models.mlc.targets import Machine

PAGE = 16
_LOWEST = -5e4
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Heads:
    """How many heads there are, how long each is, and the type of Q, K, V and the cache."""

    n_q: int
    n_kv: int
    size: int
    dtype: str

    @property
    def group(self) -> int:
        """Heads of Q that share one of K and V."""
        return self.n_q // self.n_kv


def at_vector(buffer: Any, index: list[Any], lanes: int) -> Any:
    """Returns float32 lanes along the last axis of a buffer."""
    last = index[-1] if lanes == 1 else tirx.Ramp(index[-1], 1, lanes)
    value = tirx.BufferLoad(buffer, [*index[:-1], last])
    return value if buffer.dtype == "float32" else tirx.Cast(vector_type("float32", lanes), value)


def put_vector(buffer: Any, index: list[Any], value: Any, lanes: int) -> None:
    """Writes float32 lanes along the last axis of a buffer."""
    if buffer.dtype != "float32":
        value = tirx.Cast(vector_type(buffer.dtype, lanes), value)
    T.buffer_store(buffer, value, [*index[:-1], index[-1] if lanes == 1 else tirx.Ramp(index[-1], 1, lanes)])


class Softmax:
    """One row of attention as it grows: the largest score so far, the sum of weights, the weighted sum of V."""

    def __init__(self, heads: Heads, machine: Machine) -> None:
        self.parts = segments(heads.size, machine.lanes)
        self.lanes = machine.lanes
        self.q = local(heads.size, "float32")
        self.out = local(heads.size, "float32")
        self.scores = local(PAGE, "float32")
        self.top = local(1, "float32")
        self.total = local(1, "float32")

    def chunks(self) -> list[tuple[int, int]]:
        """Returns the (first value, lanes) of each vector of a head."""
        return [(first + i * lanes, lanes) for first, count, lanes in self.parts for i in range(count)]

    def begin(self, q: Any, index: list[Any], sm_scale: Any) -> None:
        """Takes a row of Q."""
        store(self.top, 0, const(_LOWEST, "float32"))
        store(self.total, 0, const(0.0, "float32"))
        for first, lanes in self.chunks():
            store(self.q, first, at_vector(q, [*index, first], lanes) * splat(sm_scale, lanes), lanes)
            store(self.out, first, splat(0.0, lanes), lanes)

    def score(self, keys: Callable[[Any, int], Any], position: Any) -> None:
        """Computes the score of one of the 16 positions; `keys` gives lanes of its K."""
        total: Any = None
        sums: dict[int, Any] = {}
        for first, lanes in self.chunks():
            product = load(self.q, first, lanes) * keys(first, lanes)
            sums[lanes] = product if lanes not in sums else sums[lanes] + product
        for lanes, value in sums.items():
            part = sum_lanes(T.Bind(value), lanes)
            total = part if total is None else total + part
        store(self.scores, position, total)

    def mix(self, values: Callable[[Any, Any, int], Any], n: Any) -> None:
        """Adds `n` of the 16 positions; `values` gives lanes of V at a position."""
        width = self.lanes
        with T.serial(PAGE - n) as i:
            store(self.scores, n + i, const(-1e30, "float32"))
        top = T.Bind(load(self.top, 0))
        best = load(self.scores, 0, width)
        for i in range(width, PAGE, width):
            best = tirx.max(best, load(self.scores, i, width))
        now = T.Bind(tirx.max(top, max_lanes(T.Bind(best), width)))
        shrink = T.Bind(exp(top - now, 1))
        store(self.top, 0, now)
        part: Any = None
        for i in range(0, PAGE, width):
            weight = exp(load(self.scores, i, width) - splat(now, width), width)
            store(self.scores, i, weight, width)
            part = weight if part is None else part + weight
        store(self.total, 0, load(self.total, 0) * shrink + sum_lanes(T.Bind(part), width))
        for first, lanes in self.chunks():
            store(self.out, first, load(self.out, first, lanes) * splat(shrink, lanes), lanes)
        with T.serial(n) as i:
            share = T.Bind(load(self.scores, i))
            for first, lanes in self.chunks():
                store(
                    self.out, first, load(self.out, first, lanes) + splat(share, lanes) * values(i, first, lanes), lanes
                )

    def finish(self, out: Any, index: list[Any], lse: Any) -> None:
        """Writes the row and its log-sum-exp to base 2, by which parts are merged."""
        total = T.Bind(load(self.total, 0))
        inverse = T.Bind(
            tirx.if_then_else(total > const(0.0, "float32"), const(1.0, "float32") / total, const(0.0, "float32"))
        )
        for first, lanes in self.chunks():
            put_vector(out, [*index, first], load(self.out, first, lanes) * splat(inverse, lanes), lanes)
        safe = tirx.max(total, const(1e-38, "float32"))
        T.buffer_store(lse, load(self.top, 0) * const(_LOG2_E, "float32") + tirx.log2(safe), index)


class Pages:
    """The cache's pages of one sequence."""

    def __init__(self, heads: Heads, n: Any) -> None:
        self.n = n
        self.pages = argument("pages", (T.int32(), 2, heads.n_kv, PAGE, heads.size), heads.dtype, offset=True)
        self.indptr = argument("page_indptr", (n + 1,), "int32", offset=True)
        self.values = argument("page_values", (T.int32(),), "int32", offset=True)
        self.last_length = argument("length_info", (n,), "int32", offset=True)

    def n_positions(self, sequence: Any) -> Any:
        """Returns how many positions a sequence has."""
        begin, end = self.indptr[sequence], self.indptr[sequence + 1]
        return tirx.if_then_else(begin == end, 0, (end - begin - 1) * PAGE + self.last_length[sequence])


def _scalars(*, causal: bool) -> Any:
    """Declares the trailing numbers and returns (causal, sm_scale)."""
    is_causal = T.arg("causal", T.int32()) if causal else None
    T.arg("rotary_mode", T.int32())
    T.arg("rope_scale", T.float32())
    T.arg("rope_theta", T.float32())
    return is_causal, T.arg("sm_scale", T.float32())


def decode_paged(heads: Heads, machine: Machine) -> Any:
    """Returns attention of one token of each sequence over its pages."""

    def body() -> None:
        n = T.int32()
        q = argument("q", (n, heads.n_q, heads.size), heads.dtype)
        pages = Pages(heads, n)
        argument("k_rope_pos_offset", (n,), "int32", offset=True)
        argument("q_rope_position", (n,), "int32", offset=True)
        out = argument("output", (n, heads.n_q, heads.size), heads.dtype)
        lse = argument("lse", (n, heads.n_q), "float32")
        _, sm_scale = _scalars(causal=False)
        with blocks("decode"), T.parallel(n * heads.n_q) as task, blocks("head"):
            sequence, head = tirx.floordiv(task, heads.n_q), tirx.floormod(task, heads.n_q)
            row = Softmax(heads, machine)
            row.begin(q, [sequence, head], sm_scale)
            length = T.Bind(pages.n_positions(sequence))
            _over_pages(row, pages, sequence, tirx.floordiv(head, heads.group), length)
            row.finish(out, [sequence, head], lse)

    return kernel(body)


def _over_pages(row: Softmax, pages: Pages, sequence: Any, kv_head: Any, length: Any) -> None:
    with T.serial(tirx.floordiv(length + PAGE - 1, PAGE)) as number, blocks("page"):
        page = T.Bind(pages.values[pages.indptr[sequence] + number])
        n = T.Bind(tirx.min(PAGE, length - number * PAGE))
        with T.serial(n) as i:
            row.score(lambda first, lanes: at_vector(pages.pages, [page, 0, kv_head, i, first], lanes), i)
        row.mix(lambda i, first, lanes: at_vector(pages.pages, [page, 1, kv_head, i, first], lanes), n)


def prefill_paged(heads: Heads, machine: Machine) -> Any:
    """Returns attention of many tokens over what lies in pages already (an earlier chunk of the prompt)."""

    def body() -> None:
        n, total = T.int32(), T.int32()
        q = argument("q", (total, heads.n_q, heads.size), heads.dtype)
        q_indptr = argument("q_indptr", (n + 1,), "int32", offset=True)
        pages = Pages(heads, n)
        argument("k_rope_pos_offset", (n,), "int32", offset=True)
        argument("q_rope_position", (total,), "int32", offset=True)
        out = argument("output", (total, heads.n_q, heads.size), heads.dtype)
        lse = argument("lse", (total, heads.n_q), "float32")
        causal, sm_scale = _scalars(causal=True)
        with blocks("prefill"), T.serial(n) as sequence, blocks("sequence"):
            first, n_new = T.Bind(q_indptr[sequence]), T.Bind(q_indptr[sequence + 1] - q_indptr[sequence])
            length = T.Bind(pages.n_positions(sequence))
            with T.parallel(n_new * heads.n_q) as task, blocks("row"):
                i, head = T.Bind(tirx.floordiv(task, heads.n_q)), T.Bind(tirx.floormod(task, heads.n_q))
                row = Softmax(heads, machine)
                row.begin(q, [first + i, head], sm_scale)
                seen = T.Bind(tirx.if_then_else(causal == 0, length, tirx.max(0, length - n_new + i + 1)))
                _over_pages(row, pages, sequence, tirx.floordiv(head, heads.group), seen)
                row.finish(out, [first + i, head], lse)

    return kernel(body)


def prefill_ragged(heads: Heads, machine: Machine) -> Any:
    """Returns attention of many tokens over their own K and V."""

    def body() -> None:
        n, total, n_keys = T.int32(), T.int32(), T.int32()
        q = argument("q", (total, heads.n_q, heads.size), heads.dtype)
        q_indptr = argument("q_indptr", (n + 1,), "int32", offset=True)
        k = argument("k", (n_keys, heads.n_kv, heads.size), heads.dtype)
        v = argument("v", (n_keys, heads.n_kv, heads.size), heads.dtype)
        kv_indptr = argument("kv_indptr", (n + 1,), "int32", offset=True)
        argument("q_rope_position", (total,), "int32", offset=True)
        argument("k_rope_pos_offset", (n,), "int32", offset=True)
        out = argument("output", (total, heads.n_q, heads.size), heads.dtype)
        lse = argument("lse", (total, heads.n_q), "float32")
        causal, sm_scale = _scalars(causal=True)
        with blocks("ragged"), T.serial(n) as sequence, blocks("sequence"):
            first, n_new = T.Bind(q_indptr[sequence]), T.Bind(q_indptr[sequence + 1] - q_indptr[sequence])
            first_key, length = T.Bind(kv_indptr[sequence]), T.Bind(kv_indptr[sequence + 1] - kv_indptr[sequence])
            with T.parallel(n_new * heads.n_q) as task, blocks("row"):
                i, head = T.Bind(tirx.floordiv(task, heads.n_q)), T.Bind(tirx.floormod(task, heads.n_q))
                row = Softmax(heads, machine)
                row.begin(q, [first + i, head], sm_scale)
                seen = T.Bind(tirx.if_then_else(causal == 0, length, tirx.max(0, length - n_new + i + 1)))
                _over_rows(row, (k, v), first_key, tirx.floordiv(head, heads.group), seen)
                row.finish(out, [first + i, head], lse)

    return kernel(body)


def _over_rows(row: Softmax, kv: tuple[Any, Any], first_key: Any, kv_head: Any, length: Any) -> None:
    k, v = kv
    with T.serial(tirx.floordiv(length + PAGE - 1, PAGE)) as number, blocks("keys"):
        begin = T.Bind(first_key + number * PAGE)
        n = T.Bind(tirx.min(PAGE, length - number * PAGE))
        with T.serial(n) as i:
            row.score(lambda first, lanes: at_vector(k, [begin + i, kv_head, first], lanes), i)
        row.mix(lambda i, first, lanes: at_vector(v, [begin + i, kv_head, first], lanes), n)


def append(heads: Heads) -> Any:
    """Returns the kernel that writes K and V of new tokens into their places in the pages."""

    def body() -> None:
        m, n_pages = T.int64(), T.int64()
        pages = argument("pages", (n_pages, 2, heads.n_kv, PAGE, heads.size), heads.dtype, offset=True)
        k = argument("k_data", (m, heads.n_kv, heads.size), heads.dtype)
        v = argument("v_data", (m, heads.n_kv, heads.size), heads.dtype)
        positions = argument("position_map", (m,), "int32", offset=True)
        with blocks("append"), T.serial(m) as token:
            position = T.Bind(positions[token])
            with T.If(position != -1), T.Then(), T.serial(heads.n_kv) as head, T.vectorized(heads.size) as i:
                for which, data in enumerate((k, v)):
                    place = [tirx.floordiv(position, PAGE), which, head, tirx.floormod(position, PAGE), i]
                    T.buffer_store(pages, data[token, head, i], place)

    return kernel(body)


def rope(heads: Heads, frequency: Callable[[Any], Any], machine: Machine) -> Any:
    """Returns the kernel that splits Q, K and V, and rotates Q and K: value i of a head with i + size / 2.

    Args:
        heads: The model's.
        frequency: Radians for each position, of pair i (a scalar expression).
        machine: What runs it.
    """
    half = heads.size // 2

    def body() -> None:
        m = T.int32()
        fused = heads.n_q + 2 * heads.n_kv
        qkv = argument("qkv", (m, fused, heads.size), heads.dtype)
        positions = argument("position_map", (m,), "int32", offset=True)
        outs = [
            argument(name, (m, n, heads.size), heads.dtype)
            for name, n in (("q", heads.n_q), ("k", heads.n_kv), ("v", heads.n_kv))
        ]
        apply = T.arg("apply_rope", T.int64())
        with blocks("rope"), T.parallel(m) as token, blocks("token"):
            cos, sin = local(half, "float32"), local(half, "float32")
            position = T.Bind(
                tirx.if_then_else(apply > 0, tirx.Cast("float32", positions[token]), const(0.0, "float32"))
            )
            with T.serial(half) as i:
                angle = T.Bind(position * frequency(i))
                store(cos, i, tirx.cos(angle))
                store(sin, i, tirx.sin(angle))
            first = 0
            for out, n in zip(outs[:2], (heads.n_q, heads.n_kv), strict=True):
                with T.serial(n) as head:
                    for at, count, lanes in segments(half, machine.lanes):
                        for i in range(at, at + count * lanes, lanes):
                            a = T.Bind(at_vector(qkv, [token, first + head, i], lanes))
                            b = T.Bind(at_vector(qkv, [token, first + head, i + half], lanes))
                            c, s = load(cos, i, lanes), load(sin, i, lanes)
                            put_vector(out, [token, head, i], a * c - b * s, lanes)
                            put_vector(out, [token, head, i + half], b * c + a * s, lanes)
                first += n
            with T.serial(heads.n_kv) as head, T.vectorized(heads.size) as i:
                T.buffer_store(outs[2], qkv[token, first + head, i], [token, head, i])

    return kernel(body)
