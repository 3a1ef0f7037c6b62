"""Aligns a device's steady clock with the host's: offset and drift from round trips, with what remains uncertain.

    host    send ------------\\                    /--> receive       all on the host's steady clock
    device                    `--> device time --'                    on the device's

One round trip says: the device's time was read between `send` and `receive`. So the offset (device - host) lies
between ``device - receive`` and ``device - send``: its middle is off by half the round trip at most, however the delay
is shared between the two ways. Round trips that were delayed (by a busy host, USB, radio) say little, so of every
window only the shortest counts (the minimum filter of NTP, RFC 5905 section 10, and of Cristian, 1989). A line through
those gives offset and drift.

Example:
    >>> alignment = align([Exchange(0, 1_000_050, 100), Exchange(1_000_000_000, 1_001_000_050, 1_000_000_100)])
    >>> alignment.to_device(0)
    1000000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import DeviceError
from melt_core.units import NS_PER_US, PPM_PER_RATIO

#: Windows that a line is put through; each keeps its shortest round trip.
_WINDOWS = 32
#: Two readings closer than this cannot tell a drift: crystals stay below 100 ppm, which is 0.1 ms in it.
_SHORTEST_SPAN_NS = 1_000_000_000
#: No crystal is that far off: beyond it one of the clocks was stopped or set.
_MOST_PPM = 1000.0


@dataclass(frozen=True)
class Exchange:
    """One question for the time: host steady clock around it, device steady clock in it, all in ns."""

    send_ns: int
    device_ns: int
    receive_ns: int

    @property
    def round_trip_ns(self) -> int:
        """How long it took, on the host's clock."""
        return self.receive_ns - self.send_ns

    @property
    def offset_ns(self) -> float:
        """Device minus host, if both ways took equally long."""
        return self.device_ns - (self.send_ns + self.receive_ns) / 2


@dataclass(frozen=True)
class Alignment:
    """Offset and drift of a device's steady clock against the host's.

    Attributes:
        origin_ns: Host time at which the offset is `offset_ns`.
        offset_ns: Device minus host.
        drift_ppm: How much faster the device's clock runs; 0 where the span was too short to tell.
        error_ns: Bound of what remains: half the round trip plus the distance from the line, the worst of those kept.
        residual_ns: Root mean square distance of what was kept from the line.
        n_exchanges: Round trips made; `n_kept` of them decided.
        shortest_ns: Shortest round trip.
        span_ns: From the first to the last of those kept.
        warnings: What is not right, such as a clock that jumped.
    """

    origin_ns: int
    offset_ns: float
    drift_ppm: float
    error_ns: float
    residual_ns: float
    n_exchanges: int
    n_kept: int
    shortest_ns: int
    span_ns: int
    warnings: tuple[str, ...] = ()

    def to_device(self, host_ns: int) -> int:
        """Returns the device's steady time at a time of the host's steady clock."""
        elapsed = host_ns - self.origin_ns
        return host_ns + round(self.offset_ns + elapsed * self.drift_ppm / PPM_PER_RATIO)

    def to_metadata(self) -> dict[str, Any]:
        """Returns what a trace keeps of it, in us where people read it."""
        return {
            "offset_ns": round(self.offset_ns),
            "host_origin_ns": self.origin_ns,
            "drift_ppm": self.drift_ppm,
            "error_us": self.error_ns / NS_PER_US,
            "residual_us": self.residual_ns / NS_PER_US,
            "n_round_trips": self.n_exchanges,
            "n_kept": self.n_kept,
            "shortest_round_trip_us": self.shortest_ns / NS_PER_US,
            "span_s": self.span_ns / 1e9,
            "method": "line through the shortest round trip of each window",
        }


def align(exchanges: Sequence[Exchange]) -> Alignment:
    """Returns offset and drift from round trips in any order.

    Raises:
        DeviceError: There is no round trip in which time went forward.
    """
    sound = sorted((one for one in exchanges if one.round_trip_ns >= 0), key=lambda one: one.send_ns)
    if not sound:
        raise DeviceError("no answer about the device's clock could be used: its samples cannot be put on one time")
    kept = _shortest_of_windows(sound)
    origin = kept[0].send_ns
    at = np.array([(one.send_ns + one.receive_ns) / 2 - origin for one in kept], np.float64)
    base = sound[0].device_ns - sound[0].send_ns  # whole ns: offsets are too large for a float's 53 bits
    offsets = np.array([(one.device_ns - one.send_ns - base) - one.round_trip_ns / 2 for one in kept], np.float64)
    half_trips = np.array([max(one.round_trip_ns, 1) / 2 for one in kept], np.float64)
    drift, first = _line(at, offsets, half_trips)
    residuals = offsets - (first + drift * at)
    warnings = _warnings(at, offsets, half_trips, drift)
    return Alignment(
        origin_ns=origin,
        offset_ns=base + first,
        drift_ppm=drift * PPM_PER_RATIO,
        error_ns=float(np.max(np.abs(residuals) + half_trips)),
        residual_ns=float(np.sqrt(np.mean(residuals**2))),
        n_exchanges=len(exchanges),
        n_kept=len(kept),
        shortest_ns=min(one.round_trip_ns for one in sound),
        span_ns=int(at[-1] - at[0]),
        warnings=warnings,
    )


def _shortest_of_windows(sound: Sequence[Exchange]) -> list[Exchange]:
    """Returns the shortest round trip of each window, less those far longer than the best of all."""
    first, span = sound[0].send_ns, max(sound[-1].send_ns - sound[0].send_ns, 1)
    n_windows = _WINDOWS if span >= _SHORTEST_SPAN_NS else 1
    best: dict[int, Exchange] = {}
    for one in sound:
        window = min((one.send_ns - first) * n_windows // span, n_windows - 1)
        if window not in best or one.round_trip_ns < best[window].round_trip_ns:
            best[window] = one
    kept = [best[window] for window in sorted(best)]
    limit = 4 * min(one.round_trip_ns for one in kept) + 1000
    return [one for one in kept if one.round_trip_ns <= limit]


def _line(at: NDArray[Any], offsets: NDArray[Any], half_trips: NDArray[Any]) -> tuple[float, float]:
    """Returns slope and start of the line; a round trip counts by how sure it is."""
    weights = 1 / half_trips**2
    if at[-1] - at[0] < _SHORTEST_SPAN_NS:
        return 0.0, float(np.average(offsets, weights=weights))
    mean_at, mean_offset = np.average(at, weights=weights), np.average(offsets, weights=weights)
    spread = np.sum(weights * (at - mean_at) ** 2)
    slope = float(np.sum(weights * (at - mean_at) * (offsets - mean_offset)) / spread) if spread > 0 else 0.0
    return slope, float(mean_offset - slope * mean_at)


def _warnings(at: NDArray[Any], offsets: NDArray[Any], half_trips: NDArray[Any], drift: float) -> tuple[str, ...]:
    """Names a jump: two neighbours whose offsets differ by more than their round trips and any drift allow."""
    warnings = []
    if abs(drift) * PPM_PER_RATIO > _MOST_PPM:
        warnings.append(f"the device's clock seems to drift by {drift * PPM_PER_RATIO:.0f} ppm against the host's")
    allowed = half_trips[1:] + half_trips[:-1] + np.diff(at) * _MOST_PPM / PPM_PER_RATIO
    jumps = np.abs(np.diff(offsets)) - allowed
    if len(jumps) and float(jumps.max()) > 0:
        where = int(np.argmax(jumps))
        warnings.append(
            f"the clocks of host and device jumped by {abs(offsets[where + 1] - offsets[where]) / 1e6:.1f} ms against "
            "each other: one of the two was asleep, and times of samples from the host are off by as much"
        )
    return tuple(warnings)
