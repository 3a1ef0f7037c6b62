"""How exactly a meter's clock is put on the device's: simulated recordings of half an hour with 50 ppm of drift.

Method: runs of different lengths with rests between, a meter whose clock is off by some seconds and +50 or -50 ppm,
with noise, late and missing readings; 12 seeds at each rate, aligned by the load without any hint. The greatest error
is that of the worst moment of all seeds; each is also held against the error that the tool stated. Then recordings of
other runs than the trace's: how many are refused. All figures are of simulations; nothing here is timed.

Run: python benchmarks/bench_meter_clock.py     Takes about a minute.
"""

from __future__ import annotations

import sys

import numpy as np

from common import ROOT, verdict

sys.path.insert(0, str(ROOT / "tests"))

from fakes.meters import device_of, irregular_runs, metered, trace_of
from melt_core.errors import InvalidArgumentError
from melt_core.meters import align_by_load

MINUTES, N_SEEDS, N_WRONG = 30.0, 12, 30
DRIFT_PPM = 50.0
#: At this rate and above, a millisecond is promised.
RATES_HZ = (20, 50, 100, 1000)
PROMISED_FROM_HZ = 100


def errors_ms(rate_hz: float, seed: int) -> tuple[float, float]:
    """Returns the error of the worst moment of one recording, and what the tool stated, in ms."""
    runs = irregular_runs(minutes=MINUTES, seed=seed)
    offset_s, drift_ppm = seed - 7.3, DRIFT_PPM * (1 if seed % 2 else -1)
    recording = metered(
        device_of(runs), offset_s=offset_s, drift_ppm=drift_ppm, minutes=MINUTES + 0.3, rate_hz=rate_hz, seed=seed
    )
    fit = align_by_load(trace_of(runs), recording)
    at_ns = np.linspace(0, recording.duration_s, 200) * 1e9
    truth = offset_s * 1e9 + at_ns * (1 + drift_ppm * 1e-6)
    return float(np.abs(fit.to_trace_ns(at_ns) - truth).max()) / 1e6, fit.error_ns / 1e6


def refused() -> int:
    """Returns how many recordings of other runs are refused."""
    count = 0
    for seed in range(N_WRONG):
        others = device_of(irregular_runs(minutes=5, seed=1000 + seed))
        recording = metered(others, offset_s=0.0, drift_ppm=0.0, minutes=5, rate_hz=100 if seed % 2 else 20, seed=seed)
        try:
            align_by_load(trace_of(irregular_runs(minutes=5, seed=seed)), recording)
        except InvalidArgumentError:
            count += 1
    return count


def main() -> int:
    """Prints the figures and verdicts. Returns 1 if a bound is missed."""
    holds = []
    for rate_hz in RATES_HZ:
        found = [errors_ms(rate_hz, seed) for seed in range(N_SEEDS)]
        worst, stated = max(error for error, _ in found), max(bound for _, bound in found)
        within = np.mean([error <= bound for error, bound in found])
        print(f"{rate_hz:>5} Hz  worst error {worst:.3f} ms, stated up to {stated:.3f} ms, within it {within:.0%}")
        if rate_hz >= PROMISED_FROM_HZ:
            holds.append(verdict(f"worst error at {rate_hz} Hz, ms", worst, at_most=1.0))
        holds.append(verdict(f"errors within what is stated at {rate_hz} Hz", float(within), at_least=0.9))
    holds.append(verdict(f"recordings of other runs refused, of {N_WRONG}", refused(), at_least=N_WRONG))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
