"""Finds the steps that a load makes in a meter's power: roughly by correlation, then each one by least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError
from melt_core.trace.format import ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace import Trace

Array = NDArray[Any]

#: Grid of the search for the offset.
GRID_NS: Final = 10_000_000.0
_MAX_GRID: Final = 1 << 22
#: Places that correlate nearly as well as the best, and lie apart from it, are all tried.
_CANDIDATE_RATIO: Final = 0.95
_RIVAL_NS: Final = 300_000_000.0
_MAX_CANDIDATES: Final = 4
#: Of those, a second one with nearly as many steps, which does not end at the same place, makes the first one a guess.
_RIVAL_RATIO: Final = 0.9
_SAME_NS: Final = 100_000_000.0
#: Fewer of the steps from and to idle than this are found by chance.
_MIN_SEEN_RATIO: Final = 1 / 3
_MIN_CORRELATION: Final = 0.3
#: Half width of the window in which a step is looked for, first and then again around a line through what was found.
_WINDOWS_NS: Final = (400_000_000.0, 60_000_000.0)
_MIN_SIDE: Final = 3  # readings on each side of a step
#: A step counts if it is so many standard errors high.
_MIN_SIGNIFICANCE: Final = 5.0
#: Blocks in which the offset is corrected before steps are looked for: drift moves it by 30 ms within one.
_BLOCK_NS: Final = 60e9
_BLOCK_SEARCH_NS: Final = 300_000_000.0


_LEVELS: Final[Mapping[int, float]] = MappingProxyType({Phase.DECODE: 1.0, Phase.MARKER: 1.0, Phase.PREFILL: 2.0})


@dataclass(frozen=True)
class Steps:
    """When the load changes, in trace time: prefill, decode, a marker pulse or nothing from each of `time_ns` on.

    Attributes:
        time_ns: Rising.
        level: 0 nothing runs, 1 decode and marker pulses, 2 prefill: the order in which they draw.
        marker_ns: Those of `time_ns` at which a marker pulse begins or ends.
    """

    time_ns: Array
    level: Array
    marker_ns: Array

    def at(self, time_ns: Array) -> Array:
        """Returns the level at each time."""
        index = np.searchsorted(self.time_ns, time_ns, side="right") - 1
        return np.where(index < 0, 0, self.level[np.clip(index, 0, None)])


def load_steps(trace: Trace) -> Steps:
    """Returns the steps of a trace's runs, warm-up among them, and of its marker pulses.

    Raises:
        InvalidArgumentError: It has no runs.
    """
    phases = trace.records(ChunkKind.PHASES)
    running = phases[np.isin(phases["phase"], list(_LEVELS)) & (phases["duration_ns"] > 0)]
    if not len(running):
        raise InvalidArgumentError("the trace has no prefill and no decode: there is no load to align a meter by")
    running = running[np.argsort(running["start_ns"], kind="stable")]
    times: list[int] = []
    levels: list[float] = []
    for row in running:
        start, end = int(row["start_ns"]), int(row["start_ns"] + row["duration_ns"])
        if times and start - times[-1] < 1_000_000:  # the next phase follows at once
            times.pop()
            levels.pop()
        times += [start, end]
        levels += [_LEVELS[int(row["phase"])], 0]
    pulses = phases[phases["phase"] == Phase.MARKER]
    markers = np.concatenate([pulses["start_ns"], pulses["start_ns"] + pulses["duration_ns"]])
    return Steps(np.array(times, np.float64), np.array(levels, np.float64), markers.astype(np.float64))


def match_steps(
    steps: Steps, time_ns: Array, power: Array, where: str, *, near_ns: float | None, within_ns: float | None
) -> tuple[Array, Array]:
    """Returns (meter time, trace time) of each step that was found.

    Args:
        steps: In trace time.
        time_ns: Of the meter's readings.
        power: Those readings.
        where: For messages.
        near_ns: Trace time at the meter's time 0, roughly; None: not known.
        within_ns: How far from there it may be.

    Raises:
        InvalidArgumentError: Nothing fits, or several places fit equally well.
    """
    matches = []
    for offset_ns in _coarse_offsets(steps, time_ns, power, where, near_ns, within_ns):
        match = _matched(steps, time_ns, power, offset_ns)
        if match is not None:
            matches.append(match)
    if not matches:
        raise InvalidArgumentError(
            f"{where}: fewer than two of the {len(steps.time_ns)} steps of the load can be seen in its power: the "
            "meter is too slow or too noisy, or it measured something else"
        )
    best = max(matches, key=lambda match: len(match.meter_ns))
    if best.seen_ratio < _MIN_SEEN_RATIO:
        raise InvalidArgumentError(
            f"{where}: {best.seen_ratio:.0%} of the steps between load and idle are where they should be in its power: "
            "it measured something else, or with too much beside the runs"
        )
    for other in matches:
        apart = abs(other.offset_ns - best.offset_ns) > _SAME_NS
        if apart and all(
            np.isin(other.trace_ns, among).sum() >= _RIVAL_RATIO * np.isin(best.trace_ns, among).sum()
            for among in (steps.time_ns, steps.marker_ns)  # hundreds of regular runs do not outvote the pulses
        ):
            raise InvalidArgumentError(
                f"{where}: its power fits the load at several places alike: the runs are too regular (give near_ns "
                "and within_ns, or profile with --marker), or it is not of this load"
            )
    return best.meter_ns, best.trace_ns


@dataclass(frozen=True)
class _Match:
    """Steps that were found where one rough offset has them.

    Attributes:
        seen_ratio: Of the steps from or to idle that the meter is fast enough for, how many were found.
    """

    meter_ns: Array
    trace_ns: Array
    seen_ratio: float

    @property
    def offset_ns(self) -> float:
        return float(np.median(self.trace_ns - self.meter_ns))


def _matched(steps: Steps, time_ns: Array, power: Array, offset_ns: float) -> _Match | None:
    """Returns what is found around one rough offset; None for fewer than two steps."""
    offset_of = _offsets_by_block(steps, time_ns, power, offset_ns)
    found = None
    enough_ns = (_MIN_SIDE + 1) * float(np.median(np.diff(time_ns)))
    for window_ns in _WINDOWS_NS:
        expected = steps.time_ns - offset_of(steps.time_ns)
        found = _locate(steps, expected, time_ns, power, max(window_ns, enough_ns))
        if len(found.meter_ns) < 2:
            return None
        offset_of = _smooth(found.trace_ns, found.trace_ns - found.meter_ns)
    return found


def _coarse_offsets(
    steps: Steps, time_ns: Array, power: Array, where: str, near_ns: float | None, within_ns: float | None
) -> list[float]:
    """Returns the offsets at which load and power correlate best, some time apart, best first.

    Raises:
        InvalidArgumentError: They do not correlate anywhere.
    """
    margin = 2e9
    load_start, load_end = float(steps.time_ns[0]) - margin, float(steps.time_ns[-1]) + margin
    meter_span = float(time_ns[-1] - time_ns[0])
    grid_ns = max(GRID_NS, (load_end - load_start + meter_span) / _MAX_GRID)
    load = steps.at(np.arange(load_start, load_end, grid_ns))
    edges = np.arange(float(time_ns[0]), float(time_ns[-1]) + grid_ns, grid_ns)
    seen = np.interp(edges, time_ns, power)
    if np.ptp(load) == 0 or np.ptp(seen) == 0:
        raise InvalidArgumentError(f"{where}: its power never changes: there is nothing to align by")
    score, lags = _correlate(load, seen)
    offsets = load_start + lags * grid_ns - edges[0]
    if near_ns is not None and within_ns is not None:
        allowed = np.abs(offsets - near_ns) <= within_ns
        if not allowed.any():
            raise InvalidArgumentError(f"{where}: it and the trace do not overlap by their wall clocks")
        score, offsets = score[allowed], offsets[allowed]
    best = int(score.argmax())
    if score[best] < _MIN_CORRELATION:
        raise InvalidArgumentError(
            f"{where}: its power does not follow this trace's load (correlation {score[best]:.2f} at best)"
        )
    picked: list[float] = []
    for at in np.argsort(-score).tolist():
        if score[at] < _CANDIDATE_RATIO * score[best] or len(picked) == _MAX_CANDIDATES:
            break
        if all(abs(offsets[at] - other) > _RIVAL_NS for other in picked):
            picked.append(float(offsets[at]))
    return picked


def _correlate(load: Array, seen: Array) -> tuple[Array, Array]:
    """Returns the normalised correlation and its lags: at lag k, seen[0] lies at load[k]. Idle stands outside both."""
    n = len(load) + len(seen) - 1
    size = 1 << (n - 1).bit_length()
    idle = float(np.percentile(seen, 5))
    seen = np.clip(seen - idle, 0.0, float(np.percentile(seen - idle, 99.5)))
    product = np.fft.irfft(np.fft.rfft(load, size) * np.conj(np.fft.rfft(seen, size)), size)
    norm = float(np.sqrt(np.sum(load**2) * np.sum(seen**2))) or 1.0
    lags = np.concatenate([np.arange(len(load)), np.arange(-(len(seen) - 1), 0)])
    values = np.concatenate([product[: len(load)], product[size - (len(seen) - 1) :]])
    return values / norm, lags


def _offsets_by_block(steps: Steps, time_ns: Array, power: Array, offset_ns: float) -> Any:
    """Returns trace time -> offset, corrected in blocks of a minute each from the one before: for the drift."""
    centres: list[float] = []
    offsets: list[float] = []
    current = offset_ns
    blocks = np.arange(float(steps.time_ns[0]), float(steps.time_ns[-1]) + 1.0, _BLOCK_NS)
    middle = int(np.argmin(np.abs(blocks + _BLOCK_NS / 2 - float(np.median(steps.time_ns)))))
    for order in (range(middle, len(blocks)), range(middle - 1, -1, -1)):
        current = offset_ns if not offsets else offsets[0]
        for block in order:
            start = float(blocks[block])
            found = _best_shift(steps, time_ns, power, start, start + _BLOCK_NS, current)
            if found is not None:
                current = found
                centres.append(start + _BLOCK_NS / 2)
                offsets.append(found)
    if not centres:
        return lambda times: np.full(len(times), offset_ns)
    return _smooth(np.array(centres), np.array(offsets))


def _best_shift(
    steps: Steps, time_ns: Array, power: Array, start_ns: float, end_ns: float, offset_ns: float
) -> float | None:
    """Returns the offset that fits the load of one block best; None where it has no step or no readings."""
    inside = (time_ns + offset_ns >= start_ns) & (time_ns + offset_ns < end_ns)
    times, values = time_ns[inside], power[inside]
    if len(times) < 20 or not ((steps.time_ns >= start_ns) & (steps.time_ns < end_ns)).any():
        return None
    stride = max(1, int(len(times) / (_BLOCK_NS / GRID_NS * 2)))
    times, values = times[::stride], values[::stride] - values.mean()
    shifts = np.arange(-_BLOCK_SEARCH_NS, _BLOCK_SEARCH_NS + 1, GRID_NS)
    scores = []
    for shift in shifts:
        level = steps.at(times + offset_ns + shift)
        level = level - level.mean()
        norm = float(np.sqrt(np.sum(level**2) * np.sum(values**2)))
        scores.append(float(np.sum(level * values)) / norm if norm > 0 else 0.0)
    best = int(np.argmax(scores))
    return offset_ns + float(shifts[best]) if scores[best] > _MIN_CORRELATION else None


def _smooth(times: Array, offsets: Array) -> Any:
    """Returns time -> offset along a line that half of the points may lie far off (Theil and Sen)."""
    if len(times) < 2 or np.ptp(times) == 0:
        level = float(np.median(offsets))
        return lambda at: np.full(len(at), level)
    picked = np.unique(np.linspace(0, len(times) - 1, 400).astype(int))
    x, y = times[picked], offsets[picked]
    dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
    far = dx > np.ptp(x) / 10
    slope = float(np.median(dy[far] / dx[far])) if far.any() else 0.0
    level = float(np.median(offsets - slope * times))
    return lambda at: level + slope * at


def _locate(steps: Steps, expected: Array, time_ns: Array, power: Array, half_width_ns: float) -> _Match:
    """Returns each step that stands out in the window around where it is expected."""
    meter, trace, n_idle, n_seen = [], [], 0, 0
    levels = np.append(0.0, steps.level)
    for index, centre in enumerate(expected.tolist()):
        before = expected[index - 1] if index else -np.inf
        after = expected[index + 1] if index + 1 < len(expected) else np.inf
        # A neighbour's step must stay out of the window, even if all lie off by as much as the window allows.
        half = min(half_width_ns, (centre - before) * 0.6, (after - centre) * 0.6)
        first, last = np.searchsorted(time_ns, (centre - half, centre + half))
        rises = bool(levels[index + 1] > levels[index])
        at = _step_in(time_ns[first:last], power[first:last], rises=rises)
        if last - first >= 2 * _MIN_SIDE and 0.0 in levels[index : index + 2]:
            n_idle += 1
            n_seen += at is not None
        if at is not None:
            meter.append(at)
            trace.append(float(steps.time_ns[index]))
    return _Match(np.array(meter), np.array(trace), n_seen / n_idle if n_idle else 1.0)


def _step_in(time_ns: Array, power: Array, *, rises: bool) -> float | None:
    """Returns when the power steps, by least squares over all places; None if it does not clearly, or the other way."""
    n = len(power)
    if n < 2 * _MIN_SIDE:
        return None
    total = np.cumsum(power)
    left = np.arange(1, n)
    mean_left, mean_right = total[:-1] / left, (total[-1] - total[:-1]) / (n - left)
    gain = left * (n - left) / n * (mean_right - mean_left) ** 2  # by how much two levels fit better than one
    gain[: _MIN_SIDE - 1] = gain[n - _MIN_SIDE :] = 0.0
    at = int(gain.argmax())
    height = float(mean_right[at] - mean_left[at])
    rest = max(float(np.sum((power - power.mean()) ** 2)) - float(gain[at]), 0.0)
    error = np.sqrt(rest / max(n - 2, 1) * (1.0 / (at + 1) + 1.0 / (n - at - 1)))
    if (height > 0) != rises or abs(height) < _MIN_SIGNIFICANCE * error or height == 0:
        return None
    return float(time_ns[at] + time_ns[at + 1]) / 2
