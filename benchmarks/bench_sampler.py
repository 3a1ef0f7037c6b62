"""What sampling 100 times a second takes from threads that compute on all cores, by how the sampling thread waits.

    .venv/bin/python benchmarks/bench_sampler.py [--threads 2] [--seconds 120]

Method: threads stream memory in ops of some 10 us with spin barriers between, as a token's ops do; blocks of 0.2 s with
each variant take turns in random order. An op that takes 4 us to 1.5 ms longer than its block's median was disturbed;
what such ops take longer is summed. Two variants without a sampler show what is lost anyway, and how much that varies.
Speed itself varies by some percent from block to block on a virtual machine, far more than what is looked for here.

Exits 1 if this core's sampler costs 0.5 % or more of the computing threads' time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np

from common import build, verdict

CONTROLS = ("without", "control")
OURS = "this core's sampler"


def trimmed_mean(values: list[float]) -> float:
    """Returns the mean of the middle 80 %."""
    data = np.sort(np.asarray(values))
    cut = len(data) // 10
    return float(data[cut : len(data) - cut].mean())


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    program = build("bench_sampler") / "benchmarks" / "bench_sampler"
    command = [str(program), str(args.threads), str(args.seconds)]
    results = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    anyway = np.mean([trimmed_mean(results[name]["lost_us_per_s"]) for name in CONTROLS])
    n_blocks = len(results[OURS]["lost_us_per_s"])
    print(f"{args.threads} threads, {n_blocks} blocks each; {anyway / 1e4:.2f} % lost anyway")
    print(f"{'variant':<26}{'lost to it':>11}{'late, p50':>11}{'p95':>9}")
    costs = {}
    for name, result in results.items():
        costs[name] = (trimmed_mean(result["lost_us_per_s"]) - anyway) / 1e6
        late = np.quantile(result["lateness_us"], [0.5, 0.95]) if result["lateness_us"] else None
        lateness = "" if late is None else f"{late[0] / 1e3:>8.2f} ms{late[1] / 1e3:>6.2f} ms"
        print(f"{name:<26}{costs[name]:>11.2%}{lateness}")
    return 0 if verdict("time lost to this core's sampler", costs[OURS], at_most=0.005) else 1


if __name__ == "__main__":
    sys.exit(main())
