"""What was drawn in some windows of time, with its interval; or why the sensor cannot say.

The variance of a window has a part that grows with its length (readings differ from what their neighbours promise)
and one for each end (where between two readings the window begins). Against the energy, which grows with the length,
both matter less the longer the window: so for a stated error there is a shortest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from melt_core.analysis.energy_curve import EnergyCurve
from melt_core.units import NS_PER_S

#: Standard errors on either side of a 95 % interval.
Z95: Final = 1.96
#: Nothing that runs a model draws less.
LEAST_W: Final = 1e-6
#: Of a window, more than so much without a reading is too much to fill from its neighbours.
MAX_UNKNOWN_RATIO: Final = 0.05
#: A window has to hold so many changes of the sensor.
MIN_READINGS: Final = 2.0

Span = tuple[int, int]


@dataclass(frozen=True)
class WindowEnergy:
    """Energy of one or more windows of one sort.

    Attributes:
        gross_j: What was drawn; None where the sensor cannot say, and `reason` says why.
        ci95_j: Interval of it that the readings allow; a sensor's own gain error is not in it.
        wall_s: Length of all windows together.
        notes: What was done about bad readings.
    """

    gross_j: float | None
    ci95_j: tuple[float, float] | None
    standard_error_j: float
    wall_s: float
    n_windows: int
    reason: str | None = None
    notes: tuple[str, ...] = ()


def shortest_window_s(curve: EnergyCurve, power_w: float, error_ratio: float, *, n_windows: int = 1) -> float:
    """Returns how long each of `n_windows` has to be, so that their sum has a 95 % interval within the error.

    A sensor that averages over r shows at each end r / 2 of what was before: that is no noise, and no number of windows
    makes it less. Beside it, with z = 1.96, noise a per second and e at both ends: (z / error)^2 (a T + e) n <=
    (n P T)^2, solved for T.
    """
    floor_s = max(MIN_READINGS * curve.update_s, curve.response_s / (2 * error_ratio))
    if power_w < LEAST_W:
        return math.inf
    scale = n_windows * (power_w * error_ratio / Z95) ** 2
    grows, ends = curve.noise_j2_per_s, 2 * curve.end_variance_j2
    return max(floor_s, (grows + math.sqrt(grows * grows + 4 * scale * ends)) / (2 * scale))


def energy_in(curve: EnergyCurve, spans: Sequence[Span], error_ratio: float) -> WindowEnergy:
    """Returns the energy of windows together, unless the sensor cannot say to within `error_ratio`."""
    wall_s = sum(end - start for start, end in spans) / NS_PER_S
    if wall_s <= 0:
        return WindowEnergy(None, None, 0.0, wall_s, len(spans), "no time passed in it")
    gross = float(sum(curve.at(end) - curve.at(start) for start, end in spans))
    variance = sum(curve.variance_between(start, end) for start, end in spans)
    error = math.sqrt(variance)
    notes = tuple(
        problem.text
        for problem in curve.problems
        if any(problem.start_ns < end and problem.end_ns > start for start, end in spans)
    )
    reason = _refusal(curve, spans, gross, error, error_ratio)
    if reason is not None:
        return WindowEnergy(None, None, error, wall_s, len(spans), reason, notes)
    interval = (gross - Z95 * error, gross + Z95 * error)
    return WindowEnergy(gross, interval, error, wall_s, len(spans), None, notes)


def _refusal(curve: EnergyCurve, spans: Sequence[Span], gross: float, error: float, error_ratio: float) -> str | None:
    for start, end in spans:
        for from_ns, to_ns in curve.charging:
            if from_ns < end and to_ns > start:
                at = max(from_ns, start) / NS_PER_S
                return f"invalid: a charger was connected at {at:.2f} s, and {curve.name} is then not what was drawn"
    wall_s = sum(end - start for start, end in spans) / NS_PER_S
    unknown_s = sum(curve.unknown_s(start, end) for start, end in spans)
    if unknown_s > MAX_UNKNOWN_RATIO * wall_s:
        return f"{curve.name} has no usable reading for {unknown_s:.3g} s of {wall_s:.3g} s{_why_not(curve, spans)}"
    if gross < LEAST_W * wall_s:
        return f"{curve.name} read {gross / wall_s:.3g} W: nothing can be said of energy from that"
    shortest_s = shortest_window_s(curve, gross / wall_s, error_ratio, n_windows=len(spans))
    mean_s = wall_s / len(spans)
    if mean_s < shortest_s or Z95 * error > error_ratio * gross:
        return (
            f"{_named(len(spans))} of {mean_s:.3g} s, and {curve.name}, {_pace(curve)}, needs {shortest_s:.3g} s for "
            f"{error_ratio:.0%}"
        )
    return None


def _named(n_windows: int) -> str:
    return "a window" if n_windows == 1 else f"{n_windows} windows"


def _pace(curve: EnergyCurve) -> str:
    if curve.response_s > curve.update_s:
        return f"which averages over {curve.response_s:.2g} s"
    return f"which changes every {curve.update_s:.2g} s"


def _why_not(curve: EnergyCurve, spans: Sequence[Span]) -> str:
    """Returns what is known about why readings are absent from windows."""
    start, end = spans[0][0], spans[-1][1]
    texts = [problem.text for problem in curve.problems if problem.start_ns < end and problem.end_ns > start]
    return f" ({'; '.join(texts)})" if texts else ": it was not read then, or had vanished"
