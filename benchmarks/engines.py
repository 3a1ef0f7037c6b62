"""Engines side by side in one process, step by step in random order: the program of native/overhead.cpp.

What bench_overhead, bench_cost_per_graph and bench_mlc_overhead share. Each process gives one ratio for an engine and
phase, the median over all pairs of a turn of it and one of stock within a step; a figure is their median. The variants
"stock", "stock copy" (the A/A control), "hooks off" and "ops recorded" are in each of them; the last two share a
session, so that between them only the recording differs, and are compared with both copies of stock. Weights and KV
caches lie in the same memory for all (native/same_memory.h), libraries in other memory for each process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import Interval, build, median_interval, verdict

PHASES = ("decode", "prefill")
#: What native/overhead.cpp does in a round, for the help of --rounds.
A_ROUND = "8 prefills and 32 decode steps of each variant"
Run = dict[str, dict[str, Any]]  # of each variant: decode_ns, prefill_ns, records, dropped
Runs = list[Run]  # of each process
#: What is compared, and with which variants.
COMPARED = {
    "stock copy": ("stock copy", ("stock",)),
    "hooks off": ("hooks off", ("stock", "stock copy")),
    "ops recorded": ("ops recorded", ("stock", "stock copy")),
    "recording alone": ("ops recorded", ("hooks off",)),
}


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
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(processes):
            print(f"{n_threads} threads: process {seed + 1}/{processes}", end="\r", file=sys.stderr, flush=True)
            command = [program, model, n_threads, rounds, prompt, seed]
            done = subprocess.run(
                [*map(str, command), *copies(libraries, Path(folder) / str(seed))],
                check=True,
                capture_output=True,
                text=True,
                env={**(environment or {}), **os.environ},
            )
            runs.append(json.loads(done.stdout))
    return runs


def copies(libraries: Sequence[str], folder: Path) -> list[str]:
    """Copies what the variants load into a new folder: a process with files of its own has them in other memory.

    Code lies where the kernel has read its file to, for all processes that use it: if that is a lucky or an unlucky
    place, it is so for all of them, and their median would not tell.

    Returns:
        The variants, with the copies.
    """
    folder.mkdir()
    found = []
    for library in libraries:
        name, _, rest = library.partition("=")
        path, on, _ = rest.partition(":on")
        found.append(f"{name}={shutil.copy(path, folder)}{on}")
    return found


def paired(run: Run, phase: str, of: str, against: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the times in ns of one variant and of others, of shapes (step, turn, 1) and (step, 1, turn)."""
    n_steps = min(len(times[f"{phase}_ns"]) for times in run.values())
    turns = {name: np.reshape(run[name][f"{phase}_ns"], (n_steps, -1)) for name in (of, *against)}
    return turns[of][:, :, None], np.hstack([turns[name] for name in against])[:, None, :]


def ratio(run: Run, phase: str, of: str, against: Sequence[str]) -> float:
    """Returns the speed of one variant over that of others."""
    times, others = paired(run, phase, of, against)
    return float(np.median(others / times))


def ratio_of_minima(run: Run, phase: str, of: str) -> float:
    """Returns the ratio of the briefest first turns: of as many for each variant, as more would find a briefer one."""
    times, others = paired(run, phase, of, ("stock",))
    return float(others[:, 0, 0].min() / times[:, 0, 0].min())


def report(runs: Runs, n_threads: int, title: str) -> tuple[dict[tuple[str, str], Interval], bool]:
    """Prints the table.

    Returns:
        By phase and what is compared the ratio of speeds, and whether no record was dropped.
    """
    print(f"\n{n_threads} thread(s): {title} (1 = as fast)")
    print(f"{'':<15} {'phase':<8} {'median, 95 % interval':>23} {'least':>7} {'most':>7} {'of minima':>10} {'ms':>7}")
    figures = {}
    others = {name: (name, ("stock", "stock copy")) for name in runs[0] if name != "stock" and name not in COMPARED}
    for phase in PHASES:
        for name, (of, against) in {**COMPARED, **others}.items():
            each = [ratio(run, phase, of, against) for run in runs]
            figures[phase, name] = found = median_interval(each)
            minima = float(np.median([ratio_of_minima(run, phase, of) for run in runs]))
            ms = np.median(np.concatenate([run[of][f"{phase}_ns"] for run in runs])) / 1e6
            spread = f"{min(each):>7.4f} {max(each):>7.4f}"
            print(f"{name:<15} {phase:<8} {found.shown()} {spread} {minima:>10.4f} {ms:>7.2f}")
    recorded, dropped = (sum(run["ops recorded"][what] for run in runs) for what in ("records", "dropped"))
    print(f"{recorded} op records, {dropped} dropped, {len(runs)} processes")
    return figures, verdict(f"{n_threads} thread(s), dropped", dropped, at_most=0)
