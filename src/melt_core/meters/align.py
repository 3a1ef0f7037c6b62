"""Puts a meter's clock and a device's on one axis: trace time = offset + rate x meter time.

Three ways, from the surest to the roughest: a marker pulse that both have seen; the load itself, whose steps the trace
knows to the microsecond and the meter sees as steps of power; the wall clocks. The first two find the drift as well:
two quartz clocks part by up to 100 ppm, 180 ms in half an hour.

What no alignment by load can see is a lag that is always the same between work and power (capacitors of the supply,
the meter's own filter): it is in the offset. A marker pulse has it too, unless it goes around the supply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError
from melt_core.meters.recording import Recording
from melt_core.meters.steps import load_steps, match_steps
from melt_core.trace.format import ChunkKind, Phase
from melt_core.units import PPM_PER_RATIO

if TYPE_CHECKING:
    from melt_core.trace import Trace

Array = NDArray[Any]

#: No two clocks that work differ by more.
MAX_DRIFT_PPM: Final = 500.0
#: Points of a line that lie so many median deviations off it are none of it.
_OUTLIER_MADS: Final = 4.0
#: Quartz clocks differ by about this; steps that are too near to each other to tell are taken to differ by no more.
_USUAL_DRIFT: Final = 100e-6
#: The wall clocks of two machines with NTP; an alignment that is no better than them is none.
WALL_CLOCK_ERROR_NS: Final = 50_000_000.0
_PULSE_MATCH_NS: Final = 5_000_000.0
#: So much of what was read before the load and after it helps to align.
_IDLE_NS: Final = 3_000_000_000.0


@dataclass(frozen=True)
class ClockFit:
    """How a meter's time becomes the trace's.

    Attributes:
        offset_ns: Trace time at the meter's time 0.
        drift_ppm: By how much the device's clock runs faster than the meter's.
        error_ns: Two standard errors, of the worst moment of the overlap.
        n_points: Pulses or steps that the line goes through.
        method: ``marker pulse``, ``load``, ``load and marker pulses`` or ``wall clock``.
    """

    offset_ns: float
    drift_ppm: float
    error_ns: float
    n_points: int
    method: str

    def to_trace_ns(self, meter_ns: Array) -> NDArray[np.int64]:
        """Returns trace times for times of the meter."""
        exact = self.offset_ns + np.asarray(meter_ns, np.float64) * (1.0 + self.drift_ppm / PPM_PER_RATIO)
        return np.round(exact).astype(np.int64)


def align_by_wall_clock(trace: Trace, recording: Recording) -> ClockFit:
    """Returns the alignment that both wall clocks give; its error is theirs, and drift is taken for 0.

    Raises:
        InvalidArgumentError: The recording does not say when it began.
    """
    if recording.start_wall_ns is None:
        raise InvalidArgumentError(
            f"{recording.source} does not say at which wall clock time it began: align it by its load or by a pulse"
        )
    offset_ns = float(recording.start_wall_ns - trace.header.start_wall_ns)
    return ClockFit(offset_ns, 0.0, WALL_CLOCK_ERROR_NS, 0, "wall clock")


def align_by_pulses(
    recording: Recording,
    pulse_times_ns: Sequence[int],
    *,
    kind: str = "power",
    threshold: float | None = None,
) -> ClockFit:
    """Returns the alignment from marker pulses: short, high, and at times that the device noted.

    Args:
        recording: The meter's.
        pulse_times_ns: Trace time of each pulse's beginning. At least two, some time apart, to find the drift.
        kind: Series in which the pulses are.
        threshold: What a pulse rises above; by default halfway between the highest reading and the median.

    Raises:
        InvalidArgumentError: Fewer than two pulses, or the meter's are not in the same pattern.
    """
    expected = np.sort(np.asarray(pulse_times_ns, np.float64))
    if len(expected) < 2:
        raise InvalidArgumentError(f"{len(expected)} marker pulses: drift takes two at least, best before and after")
    values = recording.power_w() if kind == "power" else recording.series[kind]
    seen = _rising_edges(recording, values, threshold)
    pairs = _match_pattern(seen, expected)
    if pairs is None:
        raise InvalidArgumentError(
            f"{recording.source}: its {len(seen)} pulses are not in the pattern of the {len(expected)} expected ones: "
            "give a threshold, or align it by its load"
        )
    meter_ns, trace_ns = pairs
    return _line(meter_ns, trace_ns, recording, "marker pulse")


def _rising_edges(recording: Recording, values: Array, threshold: float | None) -> Array:
    finite = np.isfinite(values)
    time, level = recording.time_ns[finite].astype(np.float64), values[finite]
    limit = threshold if threshold is not None else (float(level.max()) + float(np.median(level))) / 2
    rises = np.flatnonzero((level[:-1] < limit) & (level[1:] >= limit))
    share = (limit - level[rises]) / (level[rises + 1] - level[rises])
    return np.asarray(time[rises] + share * (time[rises + 1] - time[rises]))


def _match_pattern(seen: Array, expected: Array) -> tuple[Array, Array] | None:
    """Returns the pulses that belong together: the assignment in which intervals agree, all expected ones found."""
    if len(seen) < len(expected):
        return None
    span = expected[-1] - expected[0]
    tolerance = _PULSE_MATCH_NS + span * MAX_DRIFT_PPM / PPM_PER_RATIO
    best: tuple[float, Array] | None = None
    n_fitting = 0
    for first in seen[: len(seen) - len(expected) + 1].tolist():
        wanted = first + expected - expected[0]
        nearest = np.abs(seen[None, :] - wanted[:, None]).argmin(axis=1)
        misfit = float(np.abs(seen[nearest] - wanted).max())
        if misfit > tolerance or len(set(nearest.tolist())) < len(expected):
            continue
        n_fitting += 1
        if best is None or misfit < best[0]:
            best = misfit, seen[nearest]
    if best is None or n_fitting > 1:  # evenly spaced pulses fit at several places
        return None
    return best[1], expected


def align_by_load(
    trace: Trace, recording: Recording, *, near_ns: float | None = None, within_ns: float | None = None
) -> ClockFit:
    """Returns the alignment from the steps of power where runs begin, change phase and end, and marker pulses do.

    Args:
        trace: Of the device; its phases are what the meter's power is compared with.
        recording: The meter's; it should see a second of idle before the first run or between runs.
        near_ns: Trace time at the meter's time 0, where that is known roughly; by default from the wall clocks if the
            recording has one.
        within_ns: How far from there to look; by default 2 s around wall clocks, else everywhere.

    Raises:
        InvalidArgumentError: The trace has no steps to compare, no place fits, or several fit equally well.
    """
    steps = load_steps(trace)
    if near_ns is None and recording.start_wall_ns is not None:
        near_ns, within_ns = float(recording.start_wall_ns - trace.header.start_wall_ns), within_ns or 2e9
    power = recording.power_w()
    kept = np.isfinite(power)
    if near_ns is not None and within_ns is not None:  # what it read before and after is of other loads
        margin_ns = within_ns + _IDLE_NS
        kept &= recording.time_ns + near_ns >= steps.time_ns[0] - margin_ns
        kept &= recording.time_ns + near_ns <= steps.time_ns[-1] + margin_ns
    time_ns, power = recording.time_ns[kept].astype(np.float64), power[kept]
    if len(time_ns) < 2:
        raise InvalidArgumentError(f"{recording.source} has no reading from where the trace's runs should be")
    meter_ns, trace_ns = match_steps(steps, time_ns, power, recording.source, near_ns=near_ns, within_ns=within_ns)
    method = "load and marker pulses" if marker_times(trace) else "load"
    return _line(meter_ns, trace_ns, recording, method)


def _line(meter_ns: Array, trace_ns: Array, recording: Recording, method: str) -> ClockFit:
    """Fits the line by least squares without outliers. Raises InvalidArgumentError where it is not good enough.

    The drift is drawn towards 0 as if it were known to be within `_USUAL_DRIFT`, which matters only where steps lie so
    near to each other in time that they do not tell it.
    """
    interval_ns = float(np.median(np.diff(recording.time_ns)))
    resolution_ns = interval_ns / float(np.sqrt(12.0))  # a step lies somewhere between two readings
    kept = np.ones(len(meter_ns), np.bool_)
    centre = float(meter_ns.mean())
    spread = resolution_ns
    for _ in range(10):
        x, offset = meter_ns[kept] - centre, trace_ns[kept] - meter_ns[kept]
        squares = float(np.sum((x - x.mean()) ** 2)) + (spread / _USUAL_DRIFT) ** 2
        slope = 1.0 + float(np.sum((x - x.mean()) * (offset - offset.mean()))) / squares
        level = float(offset.mean()) + centre - (slope - 1.0) * float(x.mean())
        residual = trace_ns - (level + slope * (meter_ns - centre))
        spread = max(1.4826 * float(np.median(np.abs(residual[kept]))), resolution_ns)
        now = np.abs(residual) <= _OUTLIER_MADS * spread
        if now.sum() < 2 or bool(np.all(now == kept)):
            break
        kept = now
    drift_ppm = (slope - 1.0) * PPM_PER_RATIO
    n = int(kept.sum())
    spread = max(float(residual[kept].std()), resolution_ns)
    first = max(float(recording.time_ns[0]), float(meter_ns.min()) - _IDLE_NS)
    last = min(float(recording.time_ns[-1]), float(meter_ns.max()) + _IDLE_NS)
    farthest = max(abs(first - centre), abs(last - centre))
    error_ns = 2.0 * spread * float(np.sqrt(1.0 / n + farthest**2 / squares))
    error_ns += _in_step(recording, centre + (trace_ns[kept] - level) / slope) * interval_ns / 2
    if abs(drift_ppm) > MAX_DRIFT_PPM or error_ns > WALL_CLOCK_ERROR_NS:
        raise InvalidArgumentError(
            f"{recording.source}: {n} of {len(meter_ns)} steps give a drift of {drift_ppm:.0f} ppm with an error of "
            f"{error_ns / 1e6:.1f} ms: they are not of the same load; is it the recording of this trace?"
        )
    return ClockFit(level - slope * centre, drift_ppm, error_ns, n, method)


def _in_step(recording: Recording, meter_ns: Array) -> float:
    """Returns 0 where steps fall anywhere between two readings, 1 where all fall at the same place between them.

    Then their mean is off by up to half an interval, and no number of them shows it (Rayleigh's resultant length).
    """
    times = recording.time_ns
    after = np.clip(np.searchsorted(times, meter_ns), 1, len(times) - 1)
    share = (meter_ns - times[after - 1]) / (times[after] - times[after - 1])
    return float(np.abs(np.mean(np.exp(2j * np.pi * share))))


def marker_times(trace: Trace) -> list[int]:
    """Returns the trace time at which each pulse of `Profiler.mark` began; empty where none was made."""
    phases = trace.records(ChunkKind.PHASES)
    return sorted(phases["start_ns"][phases["phase"] == Phase.MARKER].tolist())


def phase_times(trace: Trace) -> tuple[int, int]:
    """Returns trace times of the first phase's beginning and the last one's end."""
    phases = trace.records(ChunkKind.PHASES)
    if not len(phases):
        return 0, 0
    ends = phases["start_ns"] + phases["duration_ns"]
    return int(phases["start_ns"].min()), int(ends.max())
