"""Throttling: steps of the rate found on runs with two known ones, and false alarms on quiet runs.

Method: 50 simulated runs of one to five minutes that do not throttle (correlated noise, tokens that take three times
as long, a context that grows, a drift of up to 2 %), and 50 with two steps each, drawn at random. A step is found if
one is reported within 2 s of it; one that is reported and is none counts as an alarm. All figures are of simulations.

Run: python benchmarks/bench_throttling.py     Takes about 10 s.
"""

from __future__ import annotations

import sys

import numpy as np

from common import ROOT, verdict

sys.path.insert(0, str(ROOT / "tests"))

from fakes.sustained_traces import Scene, sustained_trace
from melt_core.analysis.sustained import sustained

N_RUNS = 50
WITHIN_S = 2.0


def main() -> int:
    """Prints the figures and verdicts. Returns 1 if a bound is missed."""
    alarms = sum(bool(sustained([sustained_trace(Scene.quiet(seed))]).steps) for seed in range(N_RUNS))
    late, extra = [], 0
    for seed in range(N_RUNS):
        scene = Scene.throttling(seed)
        found = [step.time_s for step in sustained([sustained_trace(scene)]).steps]
        for begin_s, _ in scene.steps:
            late.append(min((abs(time_s - begin_s) for time_s in found), default=np.inf))
        extra += sum(min(abs(time_s - begin_s) for begin_s, _ in scene.steps) > WITHIN_S for time_s in found)
    print(
        f"from a step to its finding: median {np.median(late):.3f} s, 95th percentile {np.percentile(late, 95):.2f} s"
    )
    holds = [
        verdict(f"quiet runs with an alarm, of {N_RUNS}", alarms, at_most=0),
        verdict(
            f"steps found within {WITHIN_S:.0f} s, of {len(late)}",
            float(np.mean(np.array(late) <= WITHIN_S)),
            at_least=1.0,
        ),
        verdict("worst time between step and finding, s", float(np.max(late)), at_most=WITHIN_S),
        verdict("steps reported that are none", extra, at_most=0),
    ]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
