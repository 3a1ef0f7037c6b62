"""Runs with a level or sensors on against runs without, in one process: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import melt_core as melt
from common import Interval, median_interval
from melt_core.trace.format import ChunkKind


def times(trace: melt.Trace) -> dict[str, np.ndarray]:
    """Returns the time of each run's prefill and of its median decode step, in ns; the first run left out."""
    runs, tokens = trace.records(ChunkKind.RUNS), trace.records(ChunkKind.TOKENS)
    steps = tokens[tokens["index"] > 0]
    decode = np.array([np.median(steps["duration_ns"][steps["run"] == run]) for run in runs["run"]])
    return {"prefill": runs["prefill_ns"][1:].astype(float), "decode": decode[1:]}


def ratio_to_without(traces: Mapping[str, melt.Trace], name: str, phase: str, n_threads: int) -> tuple[Interval, ...]:
    """Prints and returns the speed of `name` over the mean of "without" and "control", and of these two: A/A."""
    without, again, other = (times(traces[key])[phase] for key in ("without", "control", name))
    ratio, control = median_interval((without + again) / 2 / other), median_interval(without / again)
    for title, found in (("control", control), (name, ratio)):
        print(f"{n_threads} thread(s) {phase:<8}{title:<9}{found.shown()}")
    return ratio, control
