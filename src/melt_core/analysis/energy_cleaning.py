"""What a sensor did wrong, found and named: readings that jump, freeze or stop; and a counter that begins again.

Nothing is averaged in silently: what a broken reading covered becomes unknown, with the reason kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_channels import Problem, Supply
from melt_core.units import NS_PER_S

Array = NDArray[Any]

#: A reading beyond so many times the 99th percentile is no power that the device drew.
_JUMP_RATIO: Final = 10.0
#: Longer than so many usual times between changes, without a change, a sensor has stopped.
_STUCK_UPDATES: Final = 10.0
_STUCK_S: Final = 0.5
#: A change of phase counts as one where so many readings lie on either side of it.
_SIDE_READINGS: Final = 3
#: Fewer changes do not tell how often a sensor updates.
_ENOUGH_CHANGES: Final = 8
#: Without a reading for so many usual intervals, what was drawn meanwhile is not known.
_GAP_READINGS: Final = 5.0


@dataclass(frozen=True)
class Readings:
    """Readings that can be believed, in order of time.

    Attributes:
        time_ns: When; of a counter that is read more often than it moves, its moves.
        values: W, or J since the first reading for a counter.
        is_unknown: For each interval between readings, whether nothing says what was drawn in it.
        update_s: Usual time between changes of the sensor.
    """

    time_ns: Array
    values: Array
    is_unknown: Array
    update_s: float
    problems: tuple[Problem, ...]


def clean(supply: Supply, phase_of: Array) -> Readings | str:
    """Returns the readings of a supply, or why none of them can be used.

    Args:
        supply: What was read.
        phase_of: For each reading, a number that is the same in phases of the same name: a sensor that stands still in
            one, but not in its likes, is stuck.
    """
    if supply.is_counter:
        time_ns, values, is_unknown, problems = _counter(supply)
    else:
        time_ns, values, is_unknown, problems = _power(supply)
    kept = np.isin(supply.time_ns, time_ns)
    if len(time_ns) < 2:
        return "fewer than two of its readings are usable"
    changed = np.append(True, np.diff(values) != 0)
    if not changed[1:].any():
        return f"it read {supply.values[0]:g} from beginning to end: the sensor is stuck"
    update_s = _update_s(supply, time_ns, changed, phase_of[kept])
    stuck = _stuck(time_ns, changed, update_s, phase_of[kept], is_counter=supply.is_counter)
    problems += [
        Problem("frozen", start, end, f"{supply.name} stood still for {(end - start) / NS_PER_S:.2g} s")
        for start, end in stuck
    ]
    if supply.is_counter:
        time_ns, values, is_unknown = _thinned(time_ns, values, is_unknown, changed, update_s)
    starts, ends = time_ns[:-1], time_ns[1:]
    for start, end in stuck:
        is_unknown = is_unknown | ((starts < end) & (ends > start))
    spans = np.diff(time_ns) / NS_PER_S
    if not supply.is_counter:  # a counter goes on counting while nobody reads it
        is_unknown = is_unknown | (spans > _GAP_READINGS * max(update_s, float(np.median(spans))))
    return Readings(time_ns, values, is_unknown, update_s, (*supply.problems, *problems))


def _power(supply: Supply) -> tuple[Array, Array, Array, list[Problem]]:
    values = supply.values
    limit = _JUMP_RATIO * float(np.percentile(np.abs(values), 99))
    mostly = 1.0 if np.median(values) >= 0 else -1.0
    wrong = np.abs(values) > limit
    if not supply.is_battery:  # a battery's sign changes when a charger comes, which is no jump
        wrong |= values * mostly < -0.05 * limit / _JUMP_RATIO
    problems = []
    if wrong.any():
        at = np.flatnonzero(wrong)
        text = f"{supply.name}: {len(at)} readings left out, beyond anything near them ({values[at[0]]:.3g} W)"
        problems.append(Problem("jump", int(supply.time_ns[at[0]]), int(supply.time_ns[at[-1]]), text))
    time_ns, kept = supply.time_ns[~wrong], values[~wrong]
    return time_ns, kept, np.zeros(max(len(kept) - 1, 0), np.bool_), problems


def _counter(supply: Supply) -> tuple[Array, Array, Array, list[Problem]]:
    """Returns the running total with wraps undone; steps that no power explains are unknown."""
    steps = np.diff(supply.values)
    seconds = np.diff(supply.time_ns) / NS_PER_S
    problems: list[Problem] = []
    back = steps < 0
    if supply.range_j is not None:
        steps = np.where(back, steps + supply.range_j, steps)
    elif not supply.is_battery:
        problems += _counter_problem(supply, "reset", back, "fell, and where it begins again is not known")
    power = steps / seconds
    unknown = back & (supply.range_j is None) if not supply.is_battery else np.zeros(len(steps), np.bool_)
    good = power[~unknown & (steps > 0)]
    if len(good):
        most_w = _JUMP_RATIO * float(np.percentile(good, 99))
        if supply.range_j is not None:
            unseen = seconds * most_w > supply.range_j
            problems += _counter_problem(
                supply, "wrap", unseen, "was not read for so long that it may have begun again"
            )
            unknown = unknown | unseen
        jump = (np.abs(power) > most_w) & ~unknown
        problems += _counter_problem(supply, "jump", jump, f"jumped, by {steps[jump.argmax()]:.3g} J at once")
        unknown = unknown | jump
    total = np.append(0.0, np.cumsum(_filled(np.where(unknown, np.nan, steps), seconds)))
    return supply.time_ns, total, unknown, problems


def _counter_problem(supply: Supply, kind: str, wrong: Array, what: str) -> list[Problem]:
    """Returns one problem for all intervals that are wrong in one way; none where none is."""
    at = np.flatnonzero(wrong)
    if not len(at):
        return []
    times = "once" if len(at) == 1 else f"{len(at)} times"
    text = f"{supply.name} {what} ({times}): what passed is not counted"
    return [Problem(kind, int(supply.time_ns[at[0]]), int(supply.time_ns[at[-1] + 1]), text)]


def _filled(steps: Array, seconds: Array) -> Array:
    """Returns the steps, unknown ones with the power of those around them."""
    known = np.flatnonzero(np.isfinite(steps))
    if len(known) == len(steps) or not len(known):
        return np.nan_to_num(steps)
    power = np.interp(np.arange(len(steps)), known, (steps / seconds)[known])
    return np.where(np.isfinite(steps), steps, power * seconds)


def _update_s(supply: Supply, time_ns: Array, changed: Array, phase_of: Array) -> float:
    """Returns the usual time between two changes of the sensor: it may be read far more often than it updates.

    Where power is steady, changes tell of the load and not of the sensor. So those at a phase's beginning do not count,
    and of others than batteries the shortest times do: gauges average, and then no two updates are alike.
    """
    usual_s = float(np.median(np.diff(time_ns))) / NS_PER_S
    counted = changed.copy()
    if not supply.is_counter:
        counted[1:] &= phase_of[1:] == phase_of[:-1]
    between = np.diff(time_ns[counted]) / NS_PER_S
    if supply.is_counter or (supply.is_battery and len(between)):
        return max(float(np.median(between)), usual_s) if len(between) else usual_s
    return max(float(np.percentile(between, 10)), usual_s) if len(between) >= _ENOUGH_CHANGES else usual_s


def _stuck(
    time_ns: Array, changed: Array, update_s: float, phase_of: Array, *, is_counter: bool
) -> list[tuple[int, int]]:
    """Returns stretches of one value that are far longer than what is usual in phases of that name.

    A steady draw read with coarse steps stands still too, but then it does so in all such phases.
    """
    first = np.flatnonzero(changed)
    last = np.append(first[1:], len(changed)) - 1  # of each stretch of one value
    spans = (time_ns[last] - time_ns[first]) / NS_PER_S
    long = np.flatnonzero(spans > max(_STUCK_UPDATES * update_s, _STUCK_S))
    found = []
    for stretch in long.tolist():
        inside = slice(first[stretch] + 1, last[stretch] + 1)
        if not is_counter and not _moves_elsewhere(changed, phase_of, inside):
            continue
        found.append((int(time_ns[first[stretch]]), int(time_ns[last[stretch]])))
    return found


def _moves_elsewhere(changed: Array, phase_of: Array, inside: slice) -> bool:
    """Returns whether the sensor usually changes in the phases that a stretch lies in, or at their boundaries."""
    phases = phase_of[inside]
    rest = np.ones(len(changed), np.bool_)
    rest[inside] = False
    names, counts = np.unique(phases, return_counts=True)
    for phase in names[(names != 0) & (counts > _SIDE_READINGS)]:
        alike = rest & (phase_of == phase)
        if alike.sum() >= _STUCK_UPDATES and changed[alike].mean() > 0.2:
            return True
    return _steps_elsewhere(changed, phase_of, inside)


def _steps_elsewhere(changed: Array, phase_of: Array, inside: slice) -> bool:
    """Returns whether a stretch goes on through a change of phase at which the sensor otherwise changes."""
    at = np.flatnonzero(phase_of != 0)
    bounds = np.flatnonzero(np.diff(phase_of[at]))  # the last reading of a phase, among those in any
    for bound in bounds.tolist():
        last, first = int(at[bound]), int(at[bound + 1])
        if last - _SIDE_READINGS < inside.start or first + _SIDE_READINGS > inside.stop:
            continue
        alike = [
            (int(at[other]), int(at[other + 1]))
            for other in bounds.tolist()
            if phase_of[at[other]] == phase_of[last] and phase_of[at[other + 1]] == phase_of[first] and other != bound
        ]
        if any(changed[begin : end + _SIDE_READINGS].any() for begin, end in alike):
            return True
    return False


def _thinned(
    time_ns: Array, values: Array, is_unknown: Array, changed: Array, update_s: float
) -> tuple[Array, Array, Array]:
    """Returns the readings at which a counter had moved, where it is read far more often than it moves.

    Between two of those it moved by all of what was drawn; a reading in between says nothing of its own.
    """
    usual_s = float(np.median(np.diff(time_ns))) / NS_PER_S
    if update_s < 1.5 * usual_s:
        return time_ns, values, is_unknown
    kept = np.flatnonzero(changed)
    spoiled = np.append(0, np.cumsum(is_unknown))
    return time_ns[kept], values[kept], np.diff(spoiled[kept]) > 0
