"""Whether `melt profile` is as fast as upstream's own llama-bench, built from the same tree with the same flags.

    .venv/bin/python benchmarks/bench_llama_bench.py [--rounds R] [--threads 1,2]

In each round llama-bench runs twice and melt once, in random order, with the same token counts and threads; the second
llama-bench over the first is the A/A control. llama-bench times evaluation alone; melt's decode_tok_s contains
sampling, because a user waits for it. Exits 1 if the median of melt over llama-bench (mean of its two) is below 0.98.
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
    """Returns llama-bench's tokens per second; it decodes behind a prompt of the same length, as melt does."""
    command = [program, "-m", str(demo_model()), "-t", n_threads, "-fa", "auto", "-r", "3", "-o", "json"]
    tests = {
        "prefill": ["-p", str(n_prompt), "-n", "0"],
        "decode": ["-p", "0", "-n", str(n_generate), "-d", str(n_prompt)],
    }
    speeds = {}
    for phase, options in tests.items():
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        speeds[phase] = float(np.median(rows[0]["samples_ts"]))
    return speeds


def melt(_: str, n_threads: str, n_prompt: int, n_generate: int) -> dict[str, float]:
    """Returns melt's tokens per second, with ops recorded as users have it by default."""
    command = [str(BIN / "melt"), "profile", "demo", "--prompt-tokens", str(n_prompt), "--threads", n_threads]
    # The first output token is the prefill's: one more makes as many decode steps as llama-bench has.
    command += ["--max-tokens", str(n_generate + 1), "--repeats", "3", "--overhead-seconds", "0", "--json"]
    summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"prefill": summary["prefill_tok_s"], "decode": summary["decode_tok_s"]}


if __name__ == "__main__":
    sys.exit(main())
