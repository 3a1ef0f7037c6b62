"""What level counters costs beside level ops, and what noting context switches costs level ops.

The same runs of the demo model, taking turns in one process: each round is a prefill and decode steps with each
variant, in random order; the ratio of their times within a round is one pair. A second recorder of level ops is the A/A
control: what differs there is noise.

    .venv/bin/python benchmarks/bench_counters.py [--rounds R] [--threads N]

Exits 1 if level ops that notes switches reaches less than 0.995 of the speed without. Level counters has no bound: it
is a level of its own, and its cost depends on how many counters a reading takes.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

import numpy as np

import melt_core as melt
from common import Interval, demo_model, median_interval, speed_verdict, verdict
from levels import times
from melt_core.analysis.counters import missing_lines

#: Ratios are speeds relative to the first; the bound is on "ops", which differs from it in noting switches alone.
VARIANTS: dict[str, dict[str, Any]] = {
    "ops, switches not noted": {"levels": ("tokens", "ops"), "watch_switches": False},
    "control: the same again": {"levels": ("tokens", "ops"), "watch_switches": False},
    "ops": {"levels": ("tokens", "ops")},
    "counters": {"levels": ("tokens", "counters")},
}


def main() -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=32, help="decode steps of each run")
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        holds &= report(measure(n_threads, args), n_threads)
    return 0 if holds else 1


def measure(n_threads: int, args: argparse.Namespace) -> dict[str, melt.Trace]:
    """Returns a trace for each variant, with as many runs as there were rounds."""
    draw = random.Random(0)
    prompt = [draw.randrange(1, 40_000) for _ in range(args.prompt)]
    with melt.load(demo_model(), n_ctx=512, n_threads=n_threads) as llm:
        recorders = {name: melt.profile(llm, **options) for name, options in VARIANTS.items()}
        for number in range(args.rounds + 1):  # the first warms up
            print(f"{n_threads} threads, round {number}/{args.rounds}", end="\r", file=sys.stderr, flush=True)
            for name in draw.sample(list(recorders), len(recorders)):
                recorders[name].run(prompt, max_tokens=args.decode + 1, ignore_eos=True, warmup=0, overhead_budget_s=0)
        for recorder in recorders.values():
            with recorder:
                pass
    return {name: recorder.trace for name, recorder in recorders.items()}


def row(name: str, ratio: Interval) -> str:
    """Returns a line of the table."""
    return f"  {name:<26}{ratio.shown()}"


def report(traces: dict[str, melt.Trace], n_threads: int) -> bool:
    """Prints the ratios and verdicts. Returns whether the bounds hold."""
    measured = {name: times(trace) for name, trace in traces.items()}
    first, control, *others = VARIANTS
    holds = True
    for phase in ("decode", "prefill"):
        print(f"\n{n_threads} thread(s), {phase}: speed relative to {first!r}, with 95 % intervals")
        ratios = {}
        for name in (control, *others):
            ratios[name] = found = median_interval(measured[first][phase] / measured[name][phase])
            step_ms = np.median(measured[name][phase]) / 1e6
            print(f"{row(name, found)}  {step_ms:.3f} ms")
        print(row("counters / ops", median_interval(measured["ops"][phase] / measured["counters"][phase])))
        name = f"{n_threads} thread(s), {phase}, ops with switches noted / without"
        holds &= speed_verdict(name, ratios["ops"], at_least=0.995, control=ratios[control])
    trace = traces["counters"]
    summary = trace.summary()
    print(f"read per op boundary and thread: {', '.join(trace.counters['name'])}")
    for line in missing_lines(trace):
        print(f"absent: {line}")
    print(f"disturbed groups: {summary.disturbed.groups if summary.disturbed else None} of {summary.ops.groups}")
    holds &= verdict(f"{n_threads} thread(s), op records dropped", summary.ops.dropped, at_most=0)
    return holds


if __name__ == "__main__":
    sys.exit(main())
