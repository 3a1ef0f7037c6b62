"""What the hooks cost in microseconds per graph, and what that is of the demo's fastest token and prefill.

bench_overhead.py measures the demo itself, where other guests of the machine and the places of buffers make a token a
few percent longer or shorter, and recording some thousandths. Here the graph is the demo's, 30 layers of the same
ops, but next to no work is in them (128 channels, random weights): the same microseconds are some percent of it. The
method is that of bench_overhead.py; a figure is the median over processes of the median difference between two steps
of a round. A prefill's graph is new to the recorder, which captures it: that is in its cost. What this leaves out is
what recording could take of the caches: its log is some KB per token, and "recording alone" of bench_overhead.py has
that.

    .venv/bin/python benchmarks/bench_cost_per_graph.py [--processes P] [--rounds R] [--prompt N] [--threads 1,2]

Exits 1 if that is more than 0.5 % of the fastest step for recording ops, or 0.2 % for hooks that are off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import ROOT, Interval, demo_model, median_interval, speed_verdict
from engines import A_ROUND, COMPARED, PHASES, Run, Runs, build_llama_cpp_engines, paired, run_engines

sys.path.insert(0, str(ROOT / "tests"))

from gguf import GGMLQuantizationType as TensorType

from fakes.tiny_models import Dims, write_model

BOUNDS = {"ops recorded": 0.995, "hooks off": 0.998}


def cost_us(run: Run, phase: str, of: str, against: Sequence[str]) -> float:
    """Returns by how much one variant's steps are longer than those of others."""
    times, others = paired(run, phase, of, against)
    return float(np.median(times - others)) / 1e3


def as_speed(cost: Interval, step_us: float) -> Interval:
    """Returns the speed, relative to a step that takes `step_us`, of one that takes `cost` longer."""
    median, high, low = (step_us / (step_us + us) for us in cost[:3])
    return Interval(median, low, high, cost.n_samples)


def judge(runs: Runs, demo: dict[str, list[int]], n_threads: int, phase: str) -> bool:
    """Prints the costs in a phase and returns whether they hold, against the times of the demo's steps."""
    key = f"{phase}_ns"
    step_us = min(demo[key]) / 1e3
    graph_us = float(np.median([run["stock"][key] for run in runs])) / 1e3
    print(f"\n{n_threads} thread(s), {phase}, us: a graph takes {graph_us:.0f}, the demo's fastest {step_us:.0f}")
    costs = {
        name: median_interval([cost_us(run, phase, *compared) for run in runs]) for name, compared in COMPARED.items()
    }
    for name, cost in costs.items():
        print(f"{name:<16} {cost.shown(digits=1):>22}  of the demo's {cost.median / step_us:>8.3%}")
    speeds = {name: as_speed(cost, step_us) for name, cost in costs.items()}
    verdicts = [
        speed_verdict(
            f"{n_threads} thread(s), {phase}, {name}, by its cost per graph",
            speeds[name],
            at_least=bound,
            control=speeds["stock copy"],
        )
        for name, bound in BOUNDS.items()
    ]
    return all(verdicts)


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=12, help=f"per process: {A_ROUND}")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()

    program, libraries = build_llama_cpp_engines()

    holds = True
    with tempfile.TemporaryDirectory() as scratch:
        thin = write_model(Path(scratch) / "thin.gguf", dims=Dims(layers=30), weight_type=TensorType.Q4_1)
        for n_threads in (int(n) for n in args.threads.split(",")):
            runs = run_engines(
                program, thin, n_threads, libraries, processes=args.processes, rounds=args.rounds, prompt=args.prompt
            )
            (demo,) = run_engines(
                program, demo_model(), n_threads, libraries[:1], processes=1, rounds=5, prompt=args.prompt
            )
            for phase in PHASES:
                holds &= judge(runs, demo["stock"], n_threads, phase)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
