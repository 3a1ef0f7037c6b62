"""How exact op times are: synthetic ops of 10 us to 10 ms whose truth is a clock that the recorder does not read.

    .venv/bin/python benchmarks/bench_accuracy.py [--threads 1,2]

An op counts as exact if its time is within 1 % or 100 ns of the truth. A spinning thread that loses its CPU, to the
host of a virtual machine for example, really took longer than described: such ops are the tail of the distribution,
and shown. Exits 1 if less than 95 % of the ops of any length on any number of threads are exact.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np

from common import build, verdict


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    program = build("bench_accuracy") / "benchmarks" / "bench_accuracy"
    holds = True
    for n_threads in args.threads.split(","):
        done = subprocess.run([program, n_threads], check=True, capture_output=True, text=True)
        truth, error = np.array(json.loads(done.stdout)).T
        print(f"\n{n_threads} thread(s): error of recorded op times")
        print(f"{'truth':>10} {'ops':>6} {'median error':>13} {'p95 |error|':>12} {'exact':>8}")
        for length in np.unique(truth):
            errors = error[truth == length]
            exact = np.mean(np.abs(errors) <= max(0.01 * length, 100))
            tail = np.quantile(np.abs(errors), 0.95)
            middle = np.median(errors)
            print(f"{length / 1e3:>7.0f} us {errors.size:>6} {middle:>10.0f} ns {tail:>9.0f} ns {exact:>8.1%}")
            holds &= verdict(f"{length / 1e3:.0f} us ops within 1 % or 100 ns", float(exact), at_least=0.95)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
