"""Energy drawn as a function of time, with what is not known about it.

Power is integrated by trapezoids, a counter by differences. At a phase's beginning and end power steps: so there an
interval between two readings is divided, each part with the power seen on its own side, and no phase is given a share
of the next one's power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_channels import Problem, Supply
from melt_core.analysis.energy_cleaning import Readings, clean
from melt_core.trace.format import Phase
from melt_core.units import NS_PER_S

Array = NDArray[Any]
#: From times to the number of the phase that each lies in; 0 in none.
PhaseAt = Callable[[Array], Array]

#: Power of what lies wholly between two readings is guessed; its standard error, relative.
_GUESS_ERROR_RATIO: Final = 0.3
#: Fewer readings of a phase do not tell how noisy they are.
_ENOUGH_READINGS: Final = 8
#: Before the first reading and after the last, so many usual intervals may still be taken to be like them.
_HELD_READINGS: Final = 2.5


@dataclass(frozen=True)
class EnergyCurve:
    """Running total of what was drawn.

    Attributes:
        name: What was read, such as "package-0/energy + dram/energy".
        time_ns: Knots: readings, and the phases' edges.
        total_j: At each knot, since the first.
        variance_j2: Of each interval between knots.
        is_unknown: Whether nothing was read that says what an interval drew: it is filled from its neighbours.
        end_variance_j2: Of each end of a window.
        noise_j2_per_s: How the variance of a window grows with its length.
        interval_s: Usual time between readings.
        update_s: Usual time between changes of the sensor.
        response_s: Over how long the sensor averages, where that is longer than from reading to reading.
        charging: When a charger made a battery's readings useless.
        reading_ns: The readings themselves, before any were divided, held or filled.
        reading: W, or J for a counter.
    """

    name: str
    origin: str
    is_counter: bool
    is_battery: bool
    time_ns: Array
    total_j: Array
    variance_j2: Array
    is_unknown: Array
    end_variance_j2: float
    noise_j2_per_s: float
    interval_s: float
    update_s: float
    charging: tuple[tuple[int, int], ...]
    problems: tuple[Problem, ...]
    reading_ns: Array
    reading: Array
    reading_is_unknown: Array
    response_s: float = 0.0

    def at(self, time_ns: Array | int) -> Array:
        """Returns the running total at any time; beyond the readings, that of the nearest."""
        return np.asarray(np.interp(time_ns, self.time_ns, self.total_j))

    def unknown_s(self, start_ns: int, end_ns: int) -> float:
        """Returns for how many seconds between two times nothing was read."""
        starts, ends = self.time_ns[:-1][self.is_unknown], self.time_ns[1:][self.is_unknown]
        inside = np.minimum(ends, end_ns) - np.maximum(starts, start_ns)
        beyond = max(int(self.time_ns[0]) - start_ns, 0) + max(end_ns - int(self.time_ns[-1]), 0)
        return float(np.maximum(inside, 0).sum() + min(beyond, end_ns - start_ns)) / NS_PER_S

    def variance_between(self, start_ns: int, end_ns: int) -> float:
        """Returns the variance in J2 of what was drawn between two times."""
        grown = np.append(0.0, np.cumsum(self.variance_j2))
        low, high = np.interp([start_ns, end_ns], self.time_ns, grown)
        return float(high - low) + 2 * self.end_variance_j2


def curve_of(supply: Supply, edges_ns: Array, phase_at: PhaseAt) -> EnergyCurve | str:
    """Returns the curve of one supply, or why there is none.

    Args:
        supply: What was read.
        edges_ns: When phases begin and end.
        phase_at: Which phase a time lies in.
    """
    found = clean(supply, phase_at(supply.time_ns))
    if isinstance(found, str):
        return found
    edges = np.unique(edges_ns)
    made = _from_counter(supply, found) if supply.is_counter else _from_power(supply, found, edges, phase_at)
    return _divided(_held(made), edges, phase_at, None if supply.is_counter else found)


def _from_power(supply: Supply, found: Readings, edges: Array, phase_at: PhaseAt) -> EnergyCurve:
    seconds = np.diff(found.time_ns) / NS_PER_S
    mean_w = (found.values[1:] + found.values[:-1]) / 2
    interval_s = float(np.median(seconds))
    update_s = max(found.update_s, interval_s)
    spread_w, each_w = _spread(found.time_ns, found.values, edges, update_s, phase_at)
    low, high = np.percentile(found.values, [2, 98])
    gap = ((high - low) * seconds) ** 2 / 12
    variance = np.where(found.is_unknown, gap, each_w**2 * np.maximum(seconds, update_s) * seconds)
    return EnergyCurve(
        name=supply.name,
        origin=supply.origin,
        is_counter=False,
        is_battery=supply.is_battery,
        time_ns=found.time_ns,
        total_j=np.append(0.0, np.cumsum(mean_w * seconds)),
        variance_j2=variance,
        is_unknown=found.is_unknown,
        end_variance_j2=(spread_w * update_s) ** 2 / 3,
        noise_j2_per_s=spread_w**2 * update_s,
        interval_s=interval_s,
        update_s=update_s,
        charging=supply.charging,
        problems=found.problems,
        reading_ns=found.time_ns,
        reading=found.values,
        reading_is_unknown=found.is_unknown,
    )


def _from_counter(supply: Supply, found: Readings) -> EnergyCurve:
    seconds = np.diff(found.time_ns) / NS_PER_S
    steps = np.diff(found.values)
    power = steps / seconds
    interval_s = float(np.median(seconds))
    moving = steps[(steps > 0) & ~found.is_unknown]
    # Read more often than it moves, a counter shows its step; read less often, its step is smaller than any seen.
    reads_s = float(np.median(np.diff(supply.time_ns))) / NS_PER_S
    step_j = float(np.median(moving)) if len(moving) and interval_s >= 1.5 * reads_s else 0.0
    spread_w = _rms_of_second_differences(power[~found.is_unknown])
    gap = (power * seconds) ** 2 / 3
    return EnergyCurve(
        name=supply.name,
        origin=supply.origin,
        is_counter=True,
        is_battery=supply.is_battery,
        time_ns=found.time_ns,
        total_j=found.values - found.values[0],
        variance_j2=np.where(found.is_unknown, gap, 0.0),
        is_unknown=found.is_unknown,
        end_variance_j2=step_j**2 / 12 + (spread_w * interval_s) ** 2 / 12,
        noise_j2_per_s=0.0,
        interval_s=interval_s,
        update_s=max(found.update_s, interval_s),
        charging=supply.charging,
        problems=found.problems,
        reading_ns=found.time_ns,
        reading=found.values,
        reading_is_unknown=found.is_unknown,
    )


def _spread(time_ns: Array, values: Array, edges: Array, update_s: float, phase_at: PhaseAt) -> tuple[float, Array]:
    """Returns by how much a reading differs from what its neighbours promise, in W: of all, and by each interval.

    Steps at phases' edges are left out, and each phase has its own: noise mostly grows with power.
    """
    middles = (time_ns[1:] + time_ns[:-1]) // 2
    step = max(1, round(update_s / (float(np.median(np.diff(time_ns))) / NS_PER_S)))
    time_ns, values = time_ns[::step], values[::step]
    if len(values) < 3:
        alone = float(np.std(values))
        return alone, np.full(len(middles), alone)
    crossed = np.diff(np.searchsorted(edges, time_ns)) > 0
    gaps = np.diff(time_ns)
    usual = gaps <= 2 * np.median(gaps)
    smooth = ~crossed[1:] & ~crossed[:-1] & usual[1:] & usual[:-1]
    second = (values[1:-1] - (values[2:] + values[:-2]) / 2) / math.sqrt(1.5)
    overall = _rms(second[smooth] if smooth.sum() >= 3 else second)
    phases, of_middle = phase_at(time_ns[1:-1]), phase_at(middles)
    each = np.full(len(middles), overall)
    for phase in np.unique(of_middle):
        own = smooth & (phases == phase)
        if own.sum() >= _ENOUGH_READINGS:
            each[of_middle == phase] = _rms(second[own])
    return overall, each


def _rms_of_second_differences(values: Array) -> float:
    if len(values) < 3:
        return 0.0
    second = values[1:-1] - (values[2:] + values[:-2]) / 2
    return 1.4826 * float(np.median(np.abs(second))) / math.sqrt(1.5)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _held(curve: EnergyCurve) -> EnergyCurve:
    """Returns the curve with a knot a little before its first reading and after its last, the power held."""
    held_ns = int(_HELD_READINGS * curve.update_s * NS_PER_S)
    power = np.diff(curve.total_j) / np.diff(curve.time_ns)  # J per ns
    known = np.flatnonzero(~curve.is_unknown)
    if not len(known):
        return curve
    first, last = float(power[known[0]]), float(power[known[-1]])
    extra = held_ns * held_ns / NS_PER_S**2
    spread = np.array([first, last]) * NS_PER_S
    before, after = (spread**2 * extra / 3).tolist()
    return replace(
        curve,
        time_ns=np.concatenate([[curve.time_ns[0] - held_ns], curve.time_ns, [curve.time_ns[-1] + held_ns]]),
        total_j=np.concatenate(
            [[curve.total_j[0] - first * held_ns], curve.total_j, [curve.total_j[-1] + last * held_ns]]
        ),
        variance_j2=np.concatenate([[before], curve.variance_j2, [after]]),
        is_unknown=np.concatenate([[False], curve.is_unknown, [False]]),
    )


def _divided(curve: EnergyCurve, edges: Array, phase_at: PhaseAt, readings: Readings | None) -> EnergyCurve:
    """Returns the curve with a knot at each edge, intervals that hold one divided by the power on either side."""
    edges = edges[(edges > curve.time_ns[0]) & (edges < curve.time_ns[-1])]
    edges = edges[~np.isin(edges, curve.time_ns)]
    if not len(edges):
        return curve
    steps, lengths = np.diff(curve.total_j), np.diff(curve.time_ns)
    interval = np.searchsorted(curve.time_ns, edges) - 1
    n_parts = np.bincount(interval, minlength=len(steps)) + 1
    first_part = np.cumsum(n_parts) - n_parts
    times = np.insert(curve.time_ns, interval + 1, edges)
    phases = phase_at((times[1:] + times[:-1]) // 2)
    new_steps, new_lengths = np.repeat(steps, n_parts), np.diff(times)
    variances = np.repeat(curve.variance_j2, n_parts) * new_lengths / np.repeat(lengths, n_parts)
    beside = _Beside.of(curve, readings, n_parts > 1, phases[first_part])
    for at in np.unique(interval).tolist():
        parts = slice(first_part[at], first_part[at] + n_parts[at])
        guess = beside.power(at, phases[parts], steps[at] / lengths[at]) * new_lengths[parts]
        variances[parts][1:-1] += (_GUESS_ERROR_RATIO * guess[1:-1]) ** 2
        if readings is None:  # a counter has counted all of it
            guess = guess * steps[at] / guess.sum() if guess.sum() > 0 else steps[at] * new_lengths[parts] / lengths[at]
        new_steps[parts] = guess
    return replace(
        curve,
        time_ns=times,
        total_j=np.append(0.0, np.cumsum(new_steps)) + curve.total_j[0],
        variance_j2=variances,
        is_unknown=np.repeat(curve.is_unknown, n_parts),
    )


@dataclass(frozen=True)
class _Beside:
    """Power on either side of intervals that hold edges, in J per ns; NaN where there is an edge there too."""

    left: Array
    right: Array
    typical: dict[int, float]  # by phase, of the intervals that lie wholly in one

    @classmethod
    def of(cls, curve: EnergyCurve, readings: Readings | None, is_divided: Array, phases: Array) -> _Beside:
        power = np.diff(curve.total_j) / np.diff(curve.time_ns)
        whole = ~is_divided & ~curve.is_unknown
        typical = {int(phase): float(np.median(power[whole & (phases == phase)])) for phase in np.unique(phases[whole])}
        if readings is not None:  # a reading is of its own side; one knot was put before the first of them
            per_ns = readings.values / NS_PER_S
            at = np.arange(len(power))
            last = len(per_ns) - 1
            return cls(per_ns[np.clip(at - 1, 0, last)], per_ns[np.clip(at, 0, last)], typical)
        usable = np.concatenate([[np.nan], np.where(whole, power, np.nan), [np.nan]])
        return cls(usable[:-2], usable[2:], typical)

    def power(self, at: int, phases: Array, own: float) -> Array:
        """Returns a guess for each part of an interval: as beside it, or as elsewhere in its phase, or idle."""
        rest = self.typical.get(Phase.IDLE, own)
        guess = np.array([self.typical.get(int(phase), rest) for phase in phases])
        for part, beside in ((0, self.left[at]), (-1, self.right[at])):
            if np.isfinite(beside):
                guess[part] = beside
        return guess


def summed(curves: Sequence[EnergyCurve]) -> EnergyCurve:
    """Returns the sum of curves of one device: between the first that begins last and the first that ends."""
    first = curves[0]
    if len(curves) == 1:
        return first
    start = max(int(curve.time_ns[0]) for curve in curves)
    end = min(int(curve.time_ns[-1]) for curve in curves)
    times = first.time_ns[(first.time_ns >= start) & (first.time_ns <= end)]
    middles = (times[1:] + times[:-1]) // 2
    variance = np.zeros(len(middles))
    unknown = np.zeros(len(middles), np.bool_)
    for curve in curves:
        grown = np.append(0.0, np.cumsum(curve.variance_j2))
        variance += np.diff(np.interp(times, curve.time_ns, grown))
        at = np.clip(np.searchsorted(curve.time_ns, middles) - 1, 0, len(curve.is_unknown) - 1)
        unknown |= curve.is_unknown[at]
    counting = any(curve.is_counter for curve in curves)  # then each as what it has counted
    both_read = (first.reading_ns >= start) & (first.reading_ns <= end)
    readings_ns = first.reading_ns[both_read]
    middles_ns = (readings_ns[1:] + readings_ns[:-1]) // 2
    return replace(
        first,
        reading_ns=readings_ns,
        reading=sum((_read_at(curve, readings_ns, counting) for curve in curves), np.zeros(len(readings_ns))),
        reading_is_unknown=np.any([_unread_at(curve, middles_ns) for curve in curves], axis=0),
        name=" + ".join(curve.name for curve in curves),
        origin=" + ".join(dict.fromkeys(curve.origin for curve in curves)),
        is_counter=counting,
        is_battery=any(curve.is_battery for curve in curves),
        time_ns=times,
        total_j=sum((curve.at(times) for curve in curves), np.zeros(len(times))),
        variance_j2=variance,
        is_unknown=unknown,
        end_variance_j2=sum(curve.end_variance_j2 for curve in curves),
        noise_j2_per_s=sum(curve.noise_j2_per_s for curve in curves),
        interval_s=max(curve.interval_s for curve in curves),
        update_s=max(curve.update_s for curve in curves),
        response_s=max(curve.response_s for curve in curves),
        charging=tuple(span for curve in curves for span in curve.charging),
        problems=tuple(problem for curve in curves for problem in curve.problems),
    )


def _read_at(curve: EnergyCurve, time_ns: Array, counting: bool) -> Array:
    if counting:
        return curve.at(time_ns)
    return np.asarray(np.interp(time_ns, curve.reading_ns, curve.reading))


def _unread_at(curve: EnergyCurve, time_ns: Array) -> Array:
    at = np.clip(np.searchsorted(curve.reading_ns, time_ns) - 1, 0, len(curve.reading_is_unknown) - 1)
    return np.asarray(curve.reading_is_unknown[at])
