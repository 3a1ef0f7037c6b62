"""Whether `melt profile` is as fast as upstream's own llama-bench, built from the same tree with the same flags.

    .venv/bin/python benchmarks/bench_llama_bench.py [--rounds R] [--threads 1,2]

In each round llama-bench runs twice and melt once, in random order, with the same token counts and threads; the second
llama-bench over the first is the A/A control. llama-bench times evaluation alone; melt's decode_tok_s contains
sampling, because a user waits for it. Exits 1 if the median of melt over llama-bench (mean of its two) is below 0.98.

What runs before a phase changes its speed, so it is the same for both:
- A prefill follows a prefill, and llama.cpp uses the graph again: melt stops at the first output token, as llama-bench
  does. Behind a decode the graph is built anew, which a user of either waits for.
- A decode follows a prefill. The first of its steps builds its graph anew, and about ten are slower than the rest
  (2 % of 64 tokens on a CPU with AMX). llama-bench's later repetitions at one depth restore the prompt's state
  instead, so each of its samples is at a depth of its own: one token more or less, the mean is melt's.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from typing import Any

import numpy as np

from common import BIN, build, demo_model, median_interval, speed_verdict


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    args = parser.parse_args()
    # llama-bench needs most of llama.cpp's tools library: the first build takes minutes.
    program = build("llama-bench", stock=True, defines=("MELT_STOCK_LLAMA_BENCH=ON",)) / "bin" / "llama-bench"
    runs = {"llama-bench": llama_bench, "llama-bench again": llama_bench, "melt": melt}
    order = random.Random(0)
    holds = True
    for n_threads in args.threads.split(","):
        speeds: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": []} for name in runs}
        for _ in range(args.rounds):
            for name in order.sample(list(runs), len(runs)):
                for phase, value in runs[name](str(program), n_threads, args.prompt, args.generate).items():
                    speeds[name][phase].append(value)
        for phase in ("prefill", "decode"):
            first, second, ours = (np.array(speeds[name][phase]) for name in runs)
            theirs = (first + second) / 2
            ratio, control = median_interval(ours / theirs), median_interval(second / first)
            best = max(ours) / max(*first, *second)
            print(
                f"{n_threads} thread(s), {phase}: llama-bench {np.median(theirs):.1f}, melt {np.median(ours):.1f} tok/s"
                f"\n  melt / llama-bench {ratio.shown(3)}, best to best {best:.3f}; control {control.shown(3)}"
            )
            title = f"{n_threads} thread(s), {phase}, melt / llama-bench"
            holds &= speed_verdict(title, ratio, at_least=0.98, control=control)
    return 0 if holds else 1


def llama_bench(program: str, n_threads: str, n_prompt: int, n_generate: int) -> dict[str, float]:
    """Returns llama-bench's tokens per second, each the median of three samples."""
    command = [program, "-m", str(demo_model()), "-t", n_threads, "-fa", "auto", "-o", "json"]
    depths = f"{n_prompt - 1},{n_prompt},{n_prompt + 1}"
    tests = {
        "prefill": ["-p", str(n_prompt), "-n", "0", "-r", "3"],
        "decode": ["-p", "0", "-n", str(n_generate), "-d", depths, "-r", "1"],
    }
    speeds = {}
    for phase, options in tests.items():
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        speeds[phase] = float(np.median([sample for row in rows for sample in row["samples_ts"]]))
    return speeds


def melt(_: str, n_threads: str, n_prompt: int, n_generate: int) -> dict[str, float]:
    """Returns melt's tokens per second, with ops recorded as users have it by default."""
    command = [str(BIN / "melt"), "profile", "demo", "--prompt-tokens", str(n_prompt), "--threads", n_threads]
    command += ["--repeats", "3", "--overhead-seconds", "0", "--json"]
    # The first output token is the prefill's: one more makes as many decode steps as llama-bench has.
    n_output = {"prefill": 1, "decode": n_generate + 1}
    speeds = {}
    for phase, n in n_output.items():
        done = subprocess.run([*command, "--max-tokens", str(n)], check=True, capture_output=True, text=True)
        speeds[phase] = float(json.loads(done.stdout)[f"{phase}_tok_s"])
    return speeds


if __name__ == "__main__":
    sys.exit(main())
