"""Traces of minutes of back-to-back prompts on a device that throttles at known times.

made = sustained_trace(Scene(steps=((60.0, 0.7),)))     # after a minute at 70 % of the rate
sustained([made]).time_to_throttle_s                    # about 60
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakes.trace_builder import METADATA, TraceBuilder, rows_of
from melt_core.trace import Trace
from melt_core.trace.format import CHANNEL, SAMPLE, TOKEN, ChunkKind, Phase, StopReason


@dataclass(frozen=True)
class Scene:
    """What is simulated.

    Attributes:
        steps: (seconds, rate from then on / rate at first).
        noise: Of each token's time, relative.
        correlation: From one token's noise to the next.
        outlier_ratio: Tokens that take three times as long.
        growth: By how much the last token of a prompt takes longer than its first, relative.
        drift: By how much the rate falls over the whole run, slowly, relative.
        temperature_rise_c: Towards which the temperature goes, with a time constant of 40 s; 0: not read.
    """

    length_s: float = 180.0
    tok_s: float = 20.0
    n_output: int = 64
    prefill_s: float = 0.6
    pause_s: float = 0.02
    steps: tuple[tuple[float, float], ...] = ()
    noise: float = 0.03
    correlation: float = 0.3
    outlier_ratio: float = 0.01
    growth: float = 0.15
    drift: float = 0.0
    temperature_rise_c: float = 30.0
    start_wall_s: float = 1_700_000_000.0
    seed: int = 0

    @staticmethod
    def quiet(seed: int) -> Scene:
        """Returns a run that does not throttle: correlated noise, outliers, a growing context and a slow drift."""
        random = np.random.default_rng(seed)
        return Scene(
            length_s=float(random.uniform(60, 300)),
            tok_s=float(random.uniform(4, 60)),
            noise=float(random.uniform(0.005, 0.08)),
            correlation=float(random.uniform(0.0, 0.9)),
            outlier_ratio=float(random.uniform(0.0, 0.03)),
            growth=float(random.uniform(0.0, 0.4)),
            drift=float(random.uniform(0.0, 0.02)),
            n_output=int(random.integers(16, 256)),
            seed=seed,
        )

    @staticmethod
    def throttling(seed: int) -> Scene:
        """Returns a run with two steps: down by 15 to 50 %, then further down or back up."""
        random = np.random.default_rng(1000 + seed)
        length_s = float(random.uniform(120, 300))
        level = float(random.uniform(0.5, 0.85))
        second = level * float(random.uniform(0.6, 0.85)) if seed % 2 else 1.0
        return Scene(
            length_s=length_s,
            tok_s=float(random.uniform(4, 60)),
            noise=float(random.uniform(0.005, 0.05)),
            correlation=float(random.uniform(0.0, 0.5)),
            outlier_ratio=float(random.uniform(0.0, 0.02)),
            growth=float(random.uniform(0.0, 0.3)),
            n_output=int(random.integers(16, 256)),
            steps=(
                (float(random.uniform(0.25, 0.45)) * length_s, level),
                (float(random.uniform(0.6, 0.85)) * length_s, second),
            ),
            seed=seed,
        )

    def rate_ratio(self, time_s: float) -> float:
        """Returns the rate at a time / the rate at first."""
        ratio = 1.0
        for begin_s, level in self.steps:
            if time_s >= begin_s:
                ratio = level
        return ratio * (1.0 - self.drift * time_s / self.length_s)


def sustained_trace(scene: Scene) -> Trace:
    """Returns the trace; its first prompt begins at time 0."""
    return Trace.from_bytes(sustained_bytes(scene))


def sustained_bytes(scene: Scene) -> bytes:
    random = np.random.default_rng(scene.seed)
    runs: list[dict[str, Any]] = []
    tokens: list[tuple[int, int, float, float]] = []  # run, index, start, duration
    now, wander = 0.0, 0.0
    while now < scene.length_s:
        start, index = now, 0
        while index < scene.n_output:
            wander = scene.correlation * wander + random.normal(0, scene.noise * np.sqrt(1 - scene.correlation**2))
            takes = 1.0 / (scene.tok_s * scene.rate_ratio(now)) * (1 + scene.growth * index / scene.n_output)
            if index == 0:
                takes = scene.prefill_s / scene.rate_ratio(now)
            takes *= float(np.exp(wander)) * (3.0 if random.random() < scene.outlier_ratio else 1.0)
            tokens.append((len(runs), index, now, takes))
            now, index = now + takes, index + 1
        runs.append(
            {
                "run": len(runs), "stop_reason": StopReason.LIMIT, "n_prompt": 32, "n_output": scene.n_output,
                "n_threads": 2, "start_ns": round(start * 1e9), "duration_ns": round((now - start) * 1e9),
                "prefill_ns": round(scene.prefill_s * 1e9), "peak_rss_bytes": 1e6,
            }
        )  # fmt: skip
        now += scene.pause_s
    return _build(scene, runs, tokens, now, random)


def _build(
    scene: Scene,
    runs: list[dict[str, Any]],
    tokens: list[tuple[int, int, float, float]],
    end_s: float,
    random: np.random.Generator,
) -> bytes:
    builder = TraceBuilder(start_wall_ns=round(scene.start_wall_s * 1e9))
    builder.metadata({**METADATA, "warnings": []})
    rows = np.zeros(len(tokens), TOKEN)
    columns = np.array(tokens)
    rows["run"], rows["index"] = columns[:, 0], columns[:, 1]
    rows["phase"] = np.where(columns[:, 1] > 0, Phase.DECODE, Phase.PREFILL)
    rows["start_ns"], rows["duration_ns"] = np.round(columns[:, 2] * 1e9), np.round(columns[:, 3] * 1e9)
    rows["n_tokens"] = np.where(columns[:, 1] > 0, 1, 32)
    phases = []
    for run in runs:
        own = rows[rows["run"] == run["run"]]
        first = int(own["duration_ns"][0])
        start, length = run["start_ns"], run["duration_ns"]
        phases += [
            {"run": run["run"], "phase": Phase.PREFILL, "start_ns": start, "duration_ns": first},
            {"run": run["run"], "phase": Phase.DECODE, "start_ns": start + first, "duration_ns": length - first},
        ]
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, runs))
    builder.records(ChunkKind.PHASES, rows_of(ChunkKind.PHASES, phases))
    builder.records(ChunkKind.TOKENS, rows)
    _add_channels(builder, scene, np.arange(0.0, end_s, 0.1), random)
    return builder.finish()


def _add_channels(builder: TraceBuilder, scene: Scene, time_s: NDArray[Any], random: np.random.Generator) -> None:
    if not scene.temperature_rise_c:
        return
    ratio = np.array([scene.rate_ratio(at) for at in time_s])
    made = {
        ("soc", "temperature", "degC"): 30 + scene.temperature_rise_c * (1 - np.exp(-time_s / 40)),
        ("cpu-policy0", "frequency", "Hz"): 2.4e9 * ratio,
        ("soc", "throttle", "level"): (ratio < 0.95).astype(float),
        ("board", "power", "W"): 6.0 * ratio * (1 + random.normal(0, 0.02, len(time_s))),
    }
    channels, parts = np.zeros(len(made), CHANNEL), []
    for number, ((site, kind, unit), values) in enumerate(made.items()):
        channels[number]["channel"] = number
        channels[number]["site"], channels[number]["kind"], channels[number]["unit"] = site, kind, unit
        channels[number]["source"] = "simulated"
        samples = np.zeros(len(time_s), SAMPLE)
        samples["time_ns"], samples["value"] = np.round(time_s * 1e9).astype(np.int64), values
        samples["channel"] = number
        parts.append(samples)
    builder.records(ChunkKind.CHANNELS, channels)
    builder.records(ChunkKind.SAMPLES, np.concatenate(parts))
