"""Power explained by who ran when: the least-squares fit behind energy per op, and how fast a sensor answers.

A sensor of power does not say over what time it averages. The load does: the window before each reading whose shares of
ops, phases and idle time explain the readings best is the sensor's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_curve import EnergyCurve
from melt_core.analysis.energy_design import Timeline, shares
from melt_core.analysis.energy_nnls import nnls
from melt_core.analysis.energy_window import Span
from melt_core.units import NS_PER_S

Array = NDArray[Any]

#: Too few readings tell nothing of the sensor.
_MIN_READINGS: Final = 20
#: From so many usual intervals on, a sensor is taken to average.
_SLOW_RATIO: Final = 1.6
#: Phases have to explain power but for so much of its variance before they tell of the sensor.
_EXPLAINED_RATIO: Final = 0.5
#: Windows that a sensor may average over, in its own intervals; the first stands for a reading of one instant.
_WINDOWS: Final = (0.001, 0.01, 0.05, *(2 ** (at / 2) for at in range(-6, 15)))
#: Then so far about the best of those, as a logarithm, in so many golden sections.
_BRACKET: Final = 0.4
_SECTIONS: Final = 8
#: Of a fit's sum of squares, relative to its variance: what another window may lose and be as likely.
_CHI2_95: Final = 3.84
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
#: Another window than from reading to reading has to fit so much better before it is taken.
_BETTER_RATIO: Final = 0.98


@dataclass(frozen=True)
class Readings:
    """Mean power of each reading over the window that ends with it."""

    begin_ns: Array
    end_ns: Array
    power_w: Array


@dataclass(frozen=True)
class Fit:
    """Least squares of power on shares of time, for one window of the sensor."""

    window_s: float
    design: Array
    power_w: Array
    residual_w: Array
    misfit: float  # mean square of all residuals, of idle readings too
    n_readings: int  # behind it


def readings_of(curve: EnergyCurve) -> Readings:
    """Returns the readings as they came: a counter's steps, or power at each time."""
    time_ns, values, is_unknown = curve.reading_ns, curve.reading, curve.reading_is_unknown
    begin, end = time_ns[:-1], time_ns[1:]
    power = np.diff(values) / np.diff(time_ns) * NS_PER_S if curve.is_counter else values[1:]
    usable = ~is_unknown
    if not curve.is_counter and curve.update_s > 1.5 * curve.interval_s:  # between updates it says nothing new
        usable = usable & (np.diff(values) != 0)
    return Readings(begin[usable], end[usable], power[usable])


def best_window(
    curve: EnergyCurve, readings: Readings, timelines: Mapping[str, Timeline], spans: Sequence[Span]
) -> tuple[Fit, list[Fit]]:
    """Returns the fit for the window that the sensor averages over, and those that fit about as well.

    A counter's window is from one reading to the next. Idle readings take part in the choice: power that steps when the
    runs begin shows best how fast the sensor answers.
    """
    inside = _inside(readings, spans)
    if curve.is_counter:
        return _fit(readings.begin_ns, readings, timelines, inside, curve.interval_s), []
    usual_s = max(float(np.median(readings.end_ns - readings.begin_ns)) / NS_PER_S, 1e-9)

    def tried(window_s: float) -> Fit:
        begin_ns = readings.end_ns - max(int(window_s * NS_PER_S), 1)
        return _fit(begin_ns, readings, timelines, inside, window_s)

    found = [tried(factor * usual_s) for factor in _WINDOWS]
    best, usual = min(found, key=lambda one: one.misfit), found[_WINDOWS.index(1.0)]
    if best.misfit > _BETTER_RATIO * usual.misfit:  # nothing tells: it reads what was since the reading before
        return usual, []
    found += _narrowed(best.window_s, tried)
    best = min(found, key=lambda one: one.misfit)
    limit = best.misfit * (1 + _CHI2_95 / max(best.n_readings, 1))
    return best, [one for one in found if one.misfit <= limit]


def _narrowed(window_s: float, tried: Callable[[float], Fit]) -> list[Fit]:
    """Returns fits ever nearer to the best about one window: golden sections of the logarithm of its length."""
    low, high = math.log(window_s) - _BRACKET, math.log(window_s) + _BRACKET
    found = []
    for _ in range(_SECTIONS):
        left, right = (tried(math.exp(at)) for at in (high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)))
        found += [left, right]
        low, high = (low, math.log(right.window_s)) if left.misfit < right.misfit else (math.log(left.window_s), high)
    return found


def _inside(readings: Readings, spans: Sequence[Span]) -> Array:
    """Returns which readings lie wholly in a run."""
    starts = np.array([start for start, _ in spans])
    ends = np.array([end for _, end in spans])
    at = np.maximum(np.searchsorted(starts, readings.begin_ns, side="right") - 1, 0)
    wholly: Array = (readings.begin_ns >= starts[at]) & (readings.end_ns <= ends[at])
    return wholly


def _fit(begin_ns: Array, readings: Readings, timelines: Mapping[str, Timeline], inside: Array, window_s: float) -> Fit:
    """Returns the fit on the readings within runs, and how badly all readings near runs fit."""
    design = shares(timelines, begin_ns, readings.end_ns)
    near = design[:, -1] < 1.0  # idle readings next to runs: the rest of the idle time tells nothing
    near = near | np.roll(near, 32) | np.roll(near, -32)
    rows, power = design[near], readings.power_w[near]
    residual = power - rows @ nnls(rows.T @ rows, rows.T @ power)
    own, seen = design[inside][:, :-1], readings.power_w[inside]
    fitted = nnls(own.T @ own, own.T @ seen) if len(own) else np.zeros(own.shape[1])
    misfit = float(np.mean(residual**2)) if len(residual) else math.inf
    return Fit(window_s, own, seen, seen - own @ fitted, misfit, len(residual))


def response_s(curve: EnergyCurve, timelines: Mapping[str, Timeline], spans: Sequence[Span]) -> float:
    """Returns over how long a sensor of power averages, as far as its readings show that; 0 for less than a reading.

    Args:
        curve: What was read.
        timelines: When each phase ran.
        spans: The measured runs.
    """
    readings = readings_of(curve)
    if curve.is_counter or len(readings.power_w) < _MIN_READINGS or not spans:
        return 0.0
    fit, _ = best_window(curve, readings, timelines, spans)
    if fit.misfit > _EXPLAINED_RATIO * float(np.var(readings.power_w)):  # nothing to see that it could answer to
        return 0.0
    return fit.window_s if fit.window_s > _SLOW_RATIO * curve.interval_s else 0.0
