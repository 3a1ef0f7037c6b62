"""How exact op times are: ops of 10 us to 10 ms whose truth is a clock that the recorder does not read.

    .venv/bin/python benchmarks/bench_accuracy.py [--threads 1,2]

The ops spin by that clock: those of the synthetic runtime, and custom ops of ggml on llama.cpp's own pool of threads,
where the threads take turns in being late.

An op counts as exact if its recorded time is within 1 % or 100 ns of what it took; on the pool within 1 % or 300 ns,
because there it is bounded by barriers, which take that long themselves, and vary. What it took is what the op's own
thread read on the steady clock: one that lost its CPU, to the host of a virtual machine for example, really took longer
than described, and the recorder has to say so. The synthetic thread reads that clock before and after its stamp. How
much further apart than usual the two readings are (on the pool: how much later than usual an op begins behind the end
of the one before) is how uncertain the truth is, and is allowed on top; where it exceeds the tolerance, what the op
took is not known. Both kinds are counted. Exits 1 if less than 99.9 % (on the pool 99 %) of the known ops of any length
on any number of threads are exact. Where more than 5 % are not known it says UNSURE, which is no success either.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import build, verdict

#: Share of the ops whose truth may be uncertain, for a verdict on the others.
MOST_UNKNOWN = 0.05


@dataclass(frozen=True)
class Ops:
    """Where ops come from, and how exact they have to be."""

    name: str
    program: str
    tolerance_ns: int
    least_exact: float


SOURCES = (
    Ops("synthetic runtime", "bench_accuracy", 100, 0.999),
    Ops("llama.cpp's pool", "bench_pool_accuracy", 300, 0.99),
)


def show(ops: NDArray[np.int64], source: Ops, title: str) -> bool:
    """Prints a row for each length of ops; returns whether all bounds hold."""
    holds = True
    within = f"within 1 % or {source.tolerance_ns} ns"
    print(f"\n{title}: error of recorded op times")
    print(f"{'described':>10} {'ops':>6} {'lost CPU':>9} {'unknown':>8}", end=" ")
    print(f"{'median error':>13} {'p99 |error|':>12} {'exact':>8}")
    for length in np.unique(ops[:, 0]):
        described, took, recorded, uncertainty = ops[ops[:, 0] == length].T
        tolerance = np.maximum(0.01 * took, source.tolerance_ns)
        known = uncertainty <= tolerance
        error = (recorded - took)[known]
        exact = float(np.mean(np.abs(error) <= (tolerance + uncertainty)[known]))
        n_lost = np.sum(took - described > np.maximum(0.01 * described, 100))
        print(
            f"{length / 1e3:>7.0f} us {took.size:>6} {n_lost:>9} {np.sum(~known):>8} {np.median(error):>10.0f} ns"
            f" {np.quantile(np.abs(error), 0.99):>9.0f} ns {exact:>8.2%}"
        )
        holds &= verdict(f"{length / 1e3:.0f} us ops {within}", exact, at_least=source.least_exact)
        unknown = float(np.mean(~known))
        if unknown > MOST_UNKNOWN:
            print(f"UNSURE  {length / 1e3:.0f} us ops: {unknown:.1%} are not known: something else uses the processors")
            holds = False
    return holds


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    holds = True
    for source in SOURCES:
        program = build(source.program) / "benchmarks" / source.program
        for n_threads in args.threads.split(","):
            done = subprocess.run([program, n_threads], check=True, capture_output=True, text=True)
            holds &= show(np.array(json.loads(done.stdout)), source, f"{source.name}, {n_threads} thread(s)")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
