"""Traces with ops, each of a power of its own, and what a sensor would read of them: the truth of energy per op.

made = op_trace(OpScene.random(seed=1))
op_energy(made.trace).rows      # against made.truth_j
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakes.trace_builder import METADATA, TraceBuilder, rows_of
from melt_core.trace import Trace
from melt_core.trace.format import CHANNEL, NONE, OP, OP_DEFINITION, SAMPLE, TOKEN, ChunkKind, Phase, StopReason

Floats = NDArray[np.float64]

OP_TYPES = ("MUL_MAT", "FLASH_ATTN_EXT", "RMS_NORM", "ROPE")
MODULES = ("ffn", "attention", "norm", "attention")


@dataclass(frozen=True)
class OpScene:
    """What is simulated: ops one after the other, token by token.

    Attributes:
        op_s: Mean duration of each op type in one layer.
        power_w: While it runs.
        gap_s: Between two tokens, at `idle_w`.
        duration_spread: Of each op's duration, relative.
        power_spread: Of each op's power about its type's, relative: no two ops of a type are alike.
        sensor: "counter" (exact running total), "instant" (power at one time) or "mean" (over `average_s` before it).
        noise_ratio: Of each reading of power; of a counter, of each step.
    """

    op_s: tuple[float, ...] = (6e-3, 2.5e-3, 0.8e-3, 1.2e-3)
    power_w: tuple[float, ...] = (9.0, 6.0, 4.0, 5.0)
    n_layers: int = 6
    n_tokens: int = 300
    gap_s: float = 2e-3
    idle_w: float = 2.0
    duration_spread: float = 0.1
    power_spread: float = 0.0
    sensor: str = "counter"
    rate_hz: float = 100.0
    average_s: float = 0.01
    noise_ratio: float = 0.02
    seed: int = 0

    @staticmethod
    def random(seed: int, **fixed: Any) -> OpScene:
        """Returns a device and model drawn at random, that a good sensor can tell the ops of."""
        random = np.random.default_rng(seed)
        scene = OpScene(
            op_s=tuple((np.array([6.0, 2.5, 1.2, 1.5]) * random.uniform(0.6, 1.6, 4) * 1e-3).tolist()),
            power_w=tuple(random.uniform(3.0, 12.0, 4).tolist()),
            n_layers=int(random.integers(4, 9)),
            n_tokens=int(random.integers(250, 400)),
            gap_s=float(random.uniform(1e-3, 4e-3)),
            idle_w=float(random.uniform(1.0, 2.5)),
            duration_spread=float(random.uniform(0.05, 0.2)),
            power_spread=float(random.uniform(0.0, 0.15)),
            sensor=("counter", "instant", "mean")[int(random.integers(3))],
            rate_hz=float(random.choice([100.0, 200.0, 500.0])),
            noise_ratio=float(random.uniform(0.005, 0.04)),
            seed=seed,
        )
        scene = replace(scene, average_s=1.0 / scene.rate_hz)
        return replace(scene, **fixed)

    @staticmethod
    def unidentifiable(seed: int) -> OpScene:
        """Returns a scene whose readings cannot tell the ops: in one of five ways, by turns."""
        random = np.random.default_rng(10_000 + seed)
        short = tuple((np.array([0.5, 0.2, 0.1, 0.12]) * random.uniform(0.7, 1.4, 4) * 1e-3).tolist())
        kinds: tuple[dict[str, Any], ...] = (
            {"op_s": short, "n_layers": 24, "sensor": "counter", "rate_hz": 100.0},  # each reading holds every layer
            {"op_s": short, "n_layers": 24, "sensor": "mean", "rate_hz": 50.0, "average_s": 0.02},
            {"sensor": "mean", "rate_hz": 100.0, "average_s": float(random.uniform(0.3, 2.0))},
            {"sensor": "counter", "rate_hz": float(random.uniform(1.0, 3.0))},  # few readings of whole tokens
            {"power_w": (float(random.uniform(3, 9)),) * 4, "gap_s": 0.0},  # nothing to tell
        )
        return OpScene.random(seed, **kinds[seed % len(kinds)])


@dataclass(frozen=True)
class OpTrace:
    """A trace, and the energy of each op type in its measured run."""

    trace: Trace
    truth_j: dict[str, float]
    total_j: float
    data: bytes = field(repr=False, default=b"")


def op_trace(scene: OpScene) -> OpTrace:
    """Returns the trace of one run behind an idle second, with another second of idling after it."""
    random = np.random.default_rng(scene.seed)
    n_types = len(scene.op_s)
    n = scene.n_tokens * scene.n_layers * n_types
    kind = np.tile(np.arange(n_types), scene.n_tokens * scene.n_layers)
    length = np.asarray(scene.op_s)[kind] * np.exp(random.normal(0.0, scene.duration_spread, n))
    power = np.asarray(scene.power_w)[kind] * np.exp(random.normal(0.0, scene.power_spread, n))
    token = np.repeat(np.arange(scene.n_tokens), scene.n_layers * n_types)
    gap = np.where(np.append(True, np.diff(token) > 0), scene.gap_s, 0.0)
    start = 1.0 + np.cumsum(length + gap) - length
    end = start + length
    finish = float(end[-1]) + 1e-6
    knots, levels = _power_steps(start, end, power, scene.idle_w, finish + 1.0)
    channels, samples = _samples(scene, knots, levels, finish + 1.0)
    truth = {name: float((power * length)[kind == at].sum()) for at, name in enumerate(OP_TYPES)}
    data = _build(scene, kind, token, start, end, channels, samples)
    total = _counted(knots, levels, np.array([1.0, finish]))
    return OpTrace(Trace.from_bytes(data), truth, float(total[1] - total[0]), data)


def _power_steps(start: Floats, end: Floats, power: Floats, idle_w: float, last: float) -> tuple[Floats, Floats]:
    knots = np.concatenate([[0.0], np.stack([start, end], axis=1).ravel(), [last]])
    levels = np.concatenate([[idle_w], np.stack([power, np.full(len(power), idle_w)], axis=1).ravel()])
    return knots, levels


def _counted(knots: Floats, levels: Floats, time_s: Floats) -> Floats:
    total = np.append(0.0, np.cumsum(levels * np.diff(knots)))
    return np.interp(time_s, knots, total)


def _samples(scene: OpScene, knots: Floats, levels: Floats, last: float) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(scene.seed + 1)
    times = np.arange(0.0, last, 1.0 / scene.rate_hz) + random.uniform(0.0, 5e-5)
    if scene.sensor == "counter":
        steps = np.diff(_counted(knots, levels, times))
        steps *= 1.0 + scene.noise_ratio * random.normal(size=len(steps))
        values, site, what, unit = np.append(0.0, np.cumsum(steps)), "package-0", "energy", "J"
    else:
        if scene.sensor == "instant":
            values = levels[np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(levels) - 1)]
        else:
            begin = np.maximum(times - scene.average_s, 0.0)
            values = (_counted(knots, levels, times) - _counted(knots, levels, begin)) / np.maximum(times - begin, 1e-9)
            values[0] = scene.idle_w
        values = values * (1.0 + scene.noise_ratio * random.normal(size=len(values)))
        site, what, unit = "board", "power", "W"
    channels = np.zeros(1, CHANNEL)
    channels["site"], channels["kind"], channels["unit"], channels["source"] = site, what, unit, "simulated"
    samples = np.zeros(len(times), SAMPLE)
    samples["time_ns"], samples["value"] = np.round(times * 1e9).astype(np.int64), values
    return channels, samples


def _build(
    scene: OpScene,
    kind: NDArray[Any],
    token: NDArray[Any],
    start: Floats,
    end: Floats,
    channels: NDArray[Any],
    samples: NDArray[Any],
) -> bytes:
    builder = TraceBuilder()
    builder.metadata({**METADATA, "warnings": []})
    definitions = np.zeros(len(OP_TYPES), OP_DEFINITION)
    definitions["node"] = np.arange(len(OP_TYPES))
    definitions["op_type"], definitions["op"] = OP_TYPES, [name.lower() for name in OP_TYPES]
    definitions["module"], definitions["backend"], definitions["n_fused"] = MODULES, "CPU", 1
    builder.records(ChunkKind.OP_DEFINITIONS, definitions)
    start_ns, end_ns = np.round(start * 1e9).astype(np.int64), np.round(end * 1e9).astype(np.int64)
    token_end = end_ns[np.append(np.diff(token) > 0, True)]
    token_start = np.append(10**9, token_end[:-1])
    run = {"run": 0, "stop_reason": StopReason.LIMIT, "n_prompt": 1, "n_output": scene.n_tokens, "n_threads": 1}
    run |= {"start_ns": 10**9, "duration_ns": int(token_end[-1]) - 10**9, "prefill_ns": int(token_end[0]) - 10**9}
    first_ns, rest_ns = int(token_end[0]), int(token_end[-1] - token_end[0])
    phases = [
        {"run": NONE, "phase": Phase.IDLE, "start_ns": 0, "duration_ns": 10**9},
        {"run": 0, "phase": Phase.PREFILL, "start_ns": 10**9, "duration_ns": first_ns - 10**9},
        {"run": 0, "phase": Phase.DECODE, "start_ns": first_ns, "duration_ns": rest_ns},
        {"run": NONE, "phase": Phase.IDLE, "start_ns": int(token_end[-1]), "duration_ns": 10**9},
    ]
    tokens = np.zeros(scene.n_tokens, TOKEN)
    tokens["index"], tokens["n_tokens"] = np.arange(scene.n_tokens), 1
    tokens["phase"] = np.where(tokens["index"] == 0, Phase.PREFILL, Phase.DECODE)
    tokens["start_ns"], tokens["duration_ns"] = token_start, token_end - token_start
    ops = np.zeros(len(kind), OP)
    ops["start_ns"], ops["compute_ns"] = start_ns, end_ns - start_ns
    ops["op"], ops["graph"], ops["token"] = kind, NONE, token
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [run]))
    builder.records(ChunkKind.PHASES, rows_of(ChunkKind.PHASES, phases))
    builder.records(ChunkKind.TOKENS, tokens)
    builder.records(ChunkKind.OPS, ops)
    builder.records(ChunkKind.CHANNELS, channels)
    builder.records(ChunkKind.SAMPLES, samples)
    return builder.finish()
