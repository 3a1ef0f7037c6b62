"""Whether `melt profile` is as fast as upstream's own llama-bench, built from the same tree with the same flags.

    .venv/bin/python benchmarks/bench_llama_bench.py [--rounds R] [--threads 1,2]

The two take turns, with the same token counts and threads. llama-bench times evaluation alone; melt's decode_tok_s
contains sampling, because a user waits for it. Exits 1 if melt reaches less than 0.98 of llama-bench.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import numpy as np

from common import BIN, build, demo_model, median_interval, verdict


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    args = parser.parse_args()
    # llama-bench needs most of llama.cpp's tools library: the first build takes minutes.
    program = build("llama-bench", stock=True, defines=("MELT_STOCK_LLAMA_BENCH=ON",)) / "bin" / "llama-bench"
    holds = True
    for n_threads in args.threads.split(","):
        theirs: dict[str, list[float]] = {"prefill": [], "decode": []}
        ours: dict[str, list[float]] = {"prefill": [], "decode": []}
        for _ in range(args.rounds):
            for rows, run in ((theirs, llama_bench), (ours, melt)):
                for phase, value in run(str(program), n_threads, args.prompt, args.generate).items():
                    rows[phase].append(value)
        for phase in ("prefill", "decode"):
            ratio, low, high = median_interval(np.divide(ours[phase], theirs[phase]))
            speeds = f"llama-bench {np.median(theirs[phase]):.1f} tok/s, melt {np.median(ours[phase]):.1f} tok/s"
            best = max(ours[phase]) / max(theirs[phase])
            print(f"{n_threads} thread(s), {phase}: {speeds}, pairs [{low:.3f}, {high:.3f}], best to best {best:.3f}")
            holds &= verdict(f"{n_threads} thread(s), {phase}, melt / llama-bench", ratio, at_least=0.98)
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
