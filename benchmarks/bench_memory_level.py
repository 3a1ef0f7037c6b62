"""What level memory costs: the same runs of the demo model with and without it, taking turns in one process.

Each round is a prefill and decode steps with the level, and twice without, in random order; the mean of the two without
over the time with it is one ratio. The two without against each other are the control: what differs there is noise,
which on a virtual machine is some percent from run to run. benchmarks/bench_sampler.py sees the sampler's own part
through it.

    .venv/bin/python benchmarks/bench_memory_level.py [--rounds R] [--threads N]

Exits 1 if level memory reaches less than 0.995 of the speed without, or its sampling thread takes 0.5 % of a core.
"""

from __future__ import annotations

import argparse
import random
import sys

import melt_core as melt
from common import demo_model, speed_verdict, verdict
from levels import ratio_to_without

VARIANTS = {"without": ("tokens",), "control": ("tokens",), "memory": ("tokens", "memory")}


def main() -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=16, help="decode steps of each run")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    draw = random.Random(0)
    prompt = [draw.randrange(1, 40_000) for _ in range(args.prompt)]
    with melt.load(demo_model(), n_ctx=512, n_threads=args.threads) as llm:
        recorders = {name: melt.profile(llm, levels=levels) for name, levels in VARIANTS.items()}
        for number in range(args.rounds + 1):  # the first warms up
            print(f"round {number}/{args.rounds}", end="\r", file=sys.stderr, flush=True)
            for name in draw.sample(list(recorders), len(recorders)):
                recorders[name].run(prompt, max_tokens=args.decode + 1, ignore_eos=True, warmup=0, overhead_budget_s=0)
        for recorder in recorders.values():
            with recorder:
                pass
    return report({name: recorder.trace for name, recorder in recorders.items()}, args.threads)


def report(traces: dict[str, melt.Trace], n_threads: int) -> int:
    """Prints the ratios and verdicts. Returns the exit code."""
    holds = True
    for phase in ("decode", "prefill"):
        ratio, control = ratio_to_without(traces, "memory", phase, n_threads)
        holds &= speed_verdict(f"{phase}, level memory / without", ratio, at_least=0.995, control=control)
    sampler = traces["memory"].metadata["sensors"]["sampler"]
    print(f"{sampler['n_rows']} rows at {sampler['rate_hz']} Hz, late by {sampler['jitter_p95_ns'] / 1e3:.0f} us (p95)")
    holds &= verdict("sampling thread, share of a core", sampler["cpu_ratio"], at_most=0.005)
    holds &= verdict("samples dropped", sampler["n_dropped"], at_most=0)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
