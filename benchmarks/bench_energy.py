"""Energy against simulated devices whose power is known at every time.

Method: (1) runs with ripple on their power, read as power, as a counter and as a battery's current, in other units and
signs, with late and missed readings, noise, steps and wraps: the greatest error of total, prefill and decode over all
of those and 10 seeds, at 100 Hz and at 10 Hz. (2) 200 traces drawn at random, each op with a power of its own: how
often the 95 % interval of a type's energy holds the truth, where the tool does not refuse; and the same for sensors
of power that average over 1.5 to 4 of their readings, which the tool has to find out. (3) 200 that are built so that
they cannot be told: how often it refuses. All figures are of simulations; nothing here is timed.

Run: python benchmarks/bench_energy.py     Takes about three minutes.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from common import ROOT, verdict

sys.path.insert(0, str(ROOT / "tests"))

from fakes.energy_traces import IDLE_S, EnergyTrace, make_runs
from fakes.op_energy_traces import OpScene, op_trace
from fakes.simulated_device import SampledSeries, SimulatedDevice, sample
from melt_core.analysis.energy import energy_of
from melt_core.analysis.energy_ops import op_energy

N_SEEDS = 10
N_SIMULATIONS = 200
#: Over so many of its readings a sensor averages, by turns.
AVERAGED_READINGS = (1.5, 2.0, 2.5, 3.0, 4.0)
PHASES = ("total", "prefill", "decode")


def scaled(series: SampledSeries, unit: str, factor: float) -> SampledSeries:
    """Returns a series in another unit, or with another sign."""
    return replace(series, unit=unit, value=series.value * factor)


def variants(read: Any) -> dict[str, tuple[str, list[SampledSeries], dict[str, Any]]]:
    """Returns, for each way to read a device: the site whose truth it is, what was read, and metadata."""
    battery = [read("battery", kind) for kind in ("voltage", "charging")]
    ranges = {"sensors": {"counter_ranges": {"package-0/energy": 20.0}}}
    return {
        "power": ("board", [read("board", "power")], {}),
        "power, mW": ("board", [scaled(read("board", "power"), "mW", 1e3)], {}),
        "power, sign turned": ("board", [scaled(read("board", "power"), "W", -1.0)], {}),
        "power, 25 mW steps": ("board", [read("board", "power", step=0.025)], {}),
        "power, 3 % noise": ("board", [read("board", "power", noise_ratio=0.03)], {}),
        "power, late, 10 % missed": ("board", [read("board", "power", jitter_s=0.002, missed_ratio=0.1)], {}),
        "counter": ("package-0", [read("package-0", "energy")], {}),
        "counter, uJ": ("package-0", [scaled(read("package-0", "energy"), "uJ", 1e6)], {}),
        "counter, wraps": ("package-0", [read("package-0", "energy", wrap=20.0, offset=19.0)], ranges),
        "counter, late, 10 % missed": (
            "package-0", [read("package-0", "energy", jitter_s=0.002, missed_ratio=0.1, step=61e-6)], {}
        ),
        "battery": ("battery", [read("battery", "current", noise_ratio=0.01), *battery], {}),
        "battery, mA, sign turned": (
            "battery", [scaled(read("battery", "current", noise_ratio=0.01), "mA", -1e3), *battery], {}
        ),
    }  # fmt: skip


def accuracy(rate_hz: float) -> float:
    """Prints the greatest error of each way to read a device, and returns the greatest of all."""
    errors: dict[str, list[float]] = defaultdict(list)
    for seed in range(N_SEEDS):
        random = np.random.default_rng(seed)
        runs = make_runs(
            3, prefill_s=float(random.uniform(0.5, 1.5)), decode_s=float(random.uniform(2.0, 5.0)),
            pause_s=float(random.uniform(0.0, 0.1)),
        )  # fmt: skip
        device = SimulatedDevice.of_runs(
            idle_w=float(random.uniform(1, 3)), prefill_w=float(random.uniform(7, 12)),
            decode_w=float(random.uniform(4, 7)), runs=runs, ripple=float(random.uniform(0, 0.4)),
        )  # fmt: skip
        end_s = runs[-1].end_s + IDLE_S + 0.02

        def read(site: str, kind: str, **options: Any) -> SampledSeries:
            return sample(device, site, kind, rate_hz=rate_hz, end_s=end_s, seed=seed, **options)  # noqa: B023

        for name, (site, series, metadata) in variants(read).items():
            made = EnergyTrace.of(device, runs, series, metadata=metadata)
            report = energy_of(made.trace)
            found = {"total": report.total, **{row.phase: row for row in report.phases}}
            for phase in PHASES:
                gross = found[phase].gross_j
                errors[name].append(1.0 if gross is None else abs(gross / made.truth_j(site, phase) - 1))
    for name, found in errors.items():
        print(
            f"  {rate_hz:>4.0f} Hz  {name:<28} worst {max(found):.3%}   median {np.median(found):.3%}   n {len(found)}"
        )
    return max(max(found) for found in errors.values())


def averaging(seed: int) -> OpScene:
    """Returns a scene whose sensor averages over 1.5 to 4 of its readings."""
    scene = OpScene.random(seed, sensor="mean")
    return replace(scene, average_s=AVERAGED_READINGS[seed % len(AVERAGED_READINGS)] / scene.rate_hz)


def coverage(scene_of: Callable[[int], OpScene]) -> tuple[float, float]:
    """Returns the share of intervals that hold the truth: of all op types, and of the worst."""
    covered: dict[str, list[bool]] = defaultdict(list)
    errors, widths, refused = [], [], 0
    for seed in range(N_SIMULATIONS):
        made = op_trace(scene_of(seed))
        found = op_energy(made.trace)
        if found.rows is None:
            refused += 1
            continue
        for row in found.rows:
            if row.key in made.truth_j:
                truth, (low, high) = made.truth_j[row.key], row.ci95_j
                covered[row.key].append(low <= truth <= high)
                errors.append(abs(row.gross_j / truth - 1))
                widths.append((high - low) / 2 / truth)
    for name, found_of in covered.items():
        print(f"  {name:<16} interval holds the truth in {np.mean(found_of):.1%} of {len(found_of)}")
    print(
        f"  error: median {np.median(errors):.2%}, 95th percentile {np.percentile(errors, 95):.2%}; half an interval: "
        f"median {np.median(widths):.2%}; refused {refused} of {N_SIMULATIONS}"
    )
    pooled = [value for values in covered.values() for value in values]
    return float(np.mean(pooled)), min(float(np.mean(values)) for values in covered.values())


def refusals() -> float:
    """Returns the share of the unidentifiable simulations that were refused."""
    reasons: Counter[str] = Counter()
    for seed in range(N_SIMULATIONS):
        refusal = op_energy(op_trace(OpScene.unidentifiable(seed)).trace).refusal
        reasons["not refused" if refusal is None else " ".join(refusal.split()[:5])] += 1
    for reason, count in reasons.most_common(8):
        print(f"  {count:>4}  {reason} ...")
    return 1 - reasons["not refused"] / N_SIMULATIONS


def main() -> int:
    """Prints all figures and verdicts. Returns 1 if a bound is missed."""
    print("energy of total, prefill and decode against the truth (simulated)")
    fast, slow = accuracy(100.0), accuracy(10.0)
    print("energy per op, modelled, against the truth (simulated)")
    pooled, worst = coverage(OpScene.random)
    print("the same, with sensors that average over 1.5 to 4 readings")
    averaged, averaged_worst = coverage(averaging)
    print("simulations that are built to be unidentifiable")
    refused = refusals()
    holds = [
        verdict("worst error at 100 Hz", fast, at_most=0.01),
        verdict("worst error at 10 Hz", slow, at_most=0.03),
        verdict("intervals that hold the truth", pooled, at_least=0.90),
        verdict("the same, of the worst op type", worst, at_least=0.90),
        verdict("averaging sensors: intervals that hold the truth", averaged, at_least=0.90),
        verdict("the same, of the worst op type", averaged_worst, at_least=0.90),
        verdict("unidentifiable ones refused", refused, at_least=0.95),
    ]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
