"""How long after Ctrl-C a run has ended, wherever it is: in a long prefill, in decode, or while overhead is measured.

    .venv/bin/python benchmarks/bench_cancel.py [--rounds R] [--threads 1,2]

SIGINT is sent to this process at a random moment of a run of the demo model; the time is that until KeyboardInterrupt
is raised, by which time what was measured has been written. Exits 1 if the longest of a row exceeds 200 ms, or if a
trace is not complete.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

import melt_core as melt
from common import demo_model, verdict

#: By name: tokens of the prompt, and what else run() is given. Each takes longer than LATEST_S.
WORK: dict[str, tuple[int, dict[str, Any]]] = {
    "prefill": (4000, {"max_tokens": 1, "warmup": 0, "overhead_budget_s": 0}),
    "decode": (8, {"max_tokens": 4000, "warmup": 0, "overhead_budget_s": 0}),
    "overhead": (64, {"max_tokens": 64, "warmup": 0, "overhead_budget_s": 60}),
}
EARLIEST_S, LATEST_S = 0.2, 1.5


def latency_s(llm: melt.LLM, n_prompt: int, options: dict[str, Any], delay_s: float) -> float:
    """Returns the time from the signal to KeyboardInterrupt; raises if the run was over before."""
    sent_s: list[float] = []

    def interrupt() -> None:
        sent_s.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay_s, interrupt)
    with melt.profile(llm) as profiler:
        timer.start()
        try:
            profiler.run(range(100, 100 + n_prompt), ignore_eos=True, **options)
        except KeyboardInterrupt:
            ended_s = time.monotonic()
        else:
            raise SystemExit(f"the run was over before {delay_s:.1f} s: nothing to interrupt")
        timer.join()
    if not profiler.trace.complete:
        raise SystemExit("the trace is not complete")
    return ended_s - sent_s[0]


def main() -> int:
    """Interrupts and prints a row each. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    delays = random.Random(0)
    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        with melt.load(demo_model(), n_threads=n_threads, n_ctx=4096) as llm:
            for name, (n_prompt, options) in WORK.items():
                times_s = [
                    latency_s(llm, n_prompt, options, delays.uniform(EARLIEST_S, LATEST_S)) for _ in range(args.rounds)
                ]
                print(f"{n_threads} thread(s), {name}: median {1e3 * float(np.median(times_s)):.1f} ms")
                title = f"{n_threads} thread(s), {name}, longest in ms"
                holds &= verdict(title, 1e3 * max(times_s), at_most=200)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
