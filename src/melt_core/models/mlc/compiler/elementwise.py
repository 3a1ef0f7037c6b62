"""Kernels that work on each token's row: norms, gated activations, rows of the table, the choice of the last token."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812 (the name that TVM gives it)

from melt_core.models.mlc.compiler.tir import (
    argument,
    blocks,
    const,
    exp,
    flat,
    kernel,
    load,
    load_f32,
    local,
    segments,
    splat,
    store,
    store_f32,
    sum_lanes,
)
from melt_core.models.mlc.quantization import Quantization
from melt_core.models.mlc.targets import Machine


def rows_of(m: Any) -> Any:
    """Opens the loop over tokens: among threads where there are several."""
    return T.serial(1) if isinstance(m, int) else T.parallel(m)


def n_tokens(decode: bool) -> Any:
    """Returns 1, or an unknown number."""
    return 1 if decode else T.int64()


def rms_norm(size: int, dtype: str, eps: float, machine: Machine, decode: bool) -> Any:
    """Returns x / sqrt(mean(x^2) + eps) * weight."""

    def body() -> None:
        m = n_tokens(decode)
        x, weight, y = flat(
            argument("x", (m, size), dtype), argument("weight", (size,), dtype), argument("y", (m, size), dtype)
        )
        with blocks("norm"), rows_of(m) as token, blocks("row"):
            total = local(1, "float32")
            for first, count, lanes in segments(size, machine.lanes):
                acc = local(lanes, "float32")
                store(acc, 0, splat(0.0, lanes), lanes)
                with T.serial(count) as i:
                    value = T.Bind(load_f32(x, token * size + first + i * lanes, lanes))
                    store(acc, 0, load(acc, 0, lanes) + value * value, lanes)
                part = sum_lanes(load(acc, 0, lanes), lanes)
                store(total, 0, part if first == 0 else load(total, 0) + part)
            scale = T.Bind(
                const(1.0, "float32") / tirx.sqrt(load(total, 0) * const(1 / size, "float32") + const(eps, "float32"))
            )
            for first, count, lanes in segments(size, machine.lanes):
                with T.serial(count) as i:
                    at = first + i * lanes
                    value = load_f32(x, token * size + at, lanes) * splat(scale, lanes) * load_f32(weight, at, lanes)
                    store_f32(y, token * size + at, value, lanes)

    return kernel(body)


def gated(size: int, dtype: str, activation: str, machine: Machine, decode: bool) -> Any:
    """Returns activation(gate) * up of rows [gate | up], each `size` long."""

    def body() -> None:
        m = n_tokens(decode)
        x, y = flat(argument("x", (m, 2 * size), dtype), argument("y", (m, size), dtype))
        with blocks("gated"), rows_of(m) as token, blocks("row"):
            for first, count, lanes in segments(size, machine.lanes):
                with T.serial(count) as i:
                    at = token * 2 * size + first + i * lanes
                    gate = T.Bind(load_f32(x, at, lanes))
                    value = _ACTIVATIONS[activation](gate, lanes) * load_f32(x, at + size, lanes)
                    store_f32(y, token * size + first + i * lanes, value, lanes)

    return kernel(body)


def _silu(x: Any, lanes: int) -> Any:
    return x / (splat(1.0, lanes) + exp(splat(0.0, lanes) - x, lanes))


def _gelu_tanh(x: Any, lanes: int) -> Any:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x / (1 + e^(-2 ...))."""
    inner = x * (splat(1.0, lanes) + splat(0.044715, lanes) * x * x) * splat(-2 * 0.7978845608028654, lanes)
    return x / (splat(1.0, lanes) + exp(inner, lanes))


_ACTIVATIONS = {"silu": _silu, "gelu_tanh": _gelu_tanh}


def take(n: int, k: int, q: Quantization, scale: float) -> Any:
    """Returns the rows of ids, times `scale`."""

    def body() -> None:
        m = T.int64()
        if q.bits:
            tensors = [argument("words", (n, q.n_words(k)), "uint32"), argument("scales", (n, q.n_groups(k)), q.dtype)]
        else:
            tensors = [argument("table", (n, k), q.dtype)]
        tensors += [argument("ids", (m,), "int32"), argument("y", (m, k), q.dtype)]
        *weights, ids, y = flat(*tensors)
        with blocks("take"), T.serial(m) as token, T.serial(k) as i:
            row = load(ids, token)
            if not q.bits:
                value = load_f32(weights[0], row * k + i)
            else:
                word = load(weights[0], row * q.n_words(k) + tirx.floordiv(i, q.per_word))
                shift = tirx.Cast("uint32", tirx.floormod(i, q.per_word) * q.bits)
                level = (word >> shift) & const((1 << q.bits) - 1, "uint32")
                level = tirx.Cast("float32", tirx.Cast("int32", level) - const(q.max_int, "int32"))
                value = level * load_f32(weights[1], row * q.n_groups(k) + tirx.floordiv(i, q.group))
            store_f32(y, token * k + i, value * const(scale, "float32"))

    return kernel(body)


def last_row(size: int, dtype: str) -> Any:
    """Returns the last token's row, as one token."""

    def body() -> None:
        m = T.int64()
        x, y = flat(argument("x", (m, size), dtype), argument("y", (1, size), dtype))
        with blocks("index"), T.serial(size) as i:
            store(y, i, load(x, (m - 1) * size + i))

    return kernel(body)
