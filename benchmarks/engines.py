"""Engines side by side in one process, step by step in random order: the program of native/overhead.cpp.

What bench_overhead, bench_cost_per_graph and bench_mlc_overhead share. Each process gives one ratio for an engine and
phase, the median over its rounds; a figure is their median. The variants "stock", "stock copy" (the A/A control),
"hooks off" and "ops recorded" are in each of them; the last two share a session, so that between them only the
recording differs. Weights and KV caches lie in the same memory for all: native/same_memory.h.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import Interval, build, median_interval, verdict

PHASES = ("decode", "prefill")
#: What native/overhead.cpp does in a round, for the help of --rounds.
A_ROUND = "8 prefills and 32 decode steps of each variant"
Runs = list[dict[str, dict[str, Any]]]  # of each process and variant: decode_ns, prefill_ns, records, dropped


def build_llama_cpp_engines() -> tuple[Path, tuple[str, ...]]:
    """Builds the program and llama.cpp's engines; returns its path and the variants."""
    stock = build("stock_engine", stock=True) / "libstock_engine.so"
    copy = stock.with_name("libstock_engine_copy.so")
    shutil.copyfile(stock, copy)  # another file, so that it is loaded a second time
    folder = build("melt_engine") / "benchmarks"
    build("bench_overhead")
    ours = folder / "libmelt_engine.so"
    libraries = (f"stock={stock}", f"stock copy={copy}", f"hooks off={ours}", f"ops recorded={ours}:on")
    return folder / "bench_overhead", libraries


def run_engines(
    program: Path,
    model: str | Path,
    n_threads: int,
    libraries: Sequence[str],
    *,
    processes: int,
    rounds: int,
    prompt: int,
    environment: Mapping[str, str] | None = None,
) -> Runs:
    """Returns what each process measured.

    Args:
        program: native/overhead.cpp, built.
        model: The model's file or directory.
        n_threads: Threads of each session.
        libraries: The variants, as that program takes them.
        processes: How many to run, one after the other.
        rounds: Of each process; see A_ROUND.
        prompt: Tokens of a prefill.
        environment: What is added to the environment, unless it is set there.
    """
    runs = []
    for seed in range(processes):
        print(f"{n_threads} threads: process {seed + 1}/{processes}", end="\r", file=sys.stderr, flush=True)
        command = [program, model, n_threads, rounds, prompt, seed]
        done = subprocess.run(
            [*map(str, command), *libraries],
            check=True,
            capture_output=True,
            text=True,
            env={**(environment or {}), **os.environ},
        )
        runs.append(json.loads(done.stdout))
    return runs


def ratios(runs: Runs, phase: str, of: str, against: str) -> list[float]:
    """Returns the speed of one variant over another's, for each process."""
    key = f"{phase}_ns"
    return [float(np.median(np.divide(run[against][key], run[of][key]))) for run in runs]


def report(runs: Runs, n_threads: int, title: str) -> tuple[dict[tuple[str, str], Interval], bool]:
    """Prints the table.

    Returns:
        By phase and variant the speed over that of "stock", and as "recording alone" that of "ops recorded" over that
        of "hooks off"; and whether no record was dropped.
    """
    print(f"\n{n_threads} thread(s): {title} (1 = as fast)")
    print(f"{'':<15} {'phase':<8} {'median, 95 % interval':>23} {'least':>7} {'most':>7} {'of minima':>10} {'ms':>7}")
    figures = {}
    for phase in PHASES:
        key = f"{phase}_ns"
        for name in sorted(runs[0]):
            each = ratios(runs, phase, name, "stock")
            minima = float(np.median([min(run["stock"][key]) / min(run[name][key]) for run in runs]))
            ms = np.median(np.concatenate([run[name][key] for run in runs])) / 1e6
            figures[phase, name] = found = median_interval(each)
            spread = f"{min(each):>7.4f} {max(each):>7.4f} {minima:>10.4f}"
            print(f"{name:<15} {phase:<8} {found.shown()} {spread} {ms:>7.2f}")
        alone = median_interval(ratios(runs, phase, "ops recorded", "hooks off"))
        figures[phase, "recording alone"] = alone
        print(f"{'recording alone':<15} {phase:<8} {alone.shown()}")
    recorded, dropped = (sum(run["ops recorded"][what] for run in runs) for what in ("records", "dropped"))
    print(f"{recorded} op records, {dropped} dropped, {len(runs)} processes")
    return figures, verdict(f"{n_threads} thread(s), dropped", dropped, at_most=0)
