"""What a meter measured, on the meter's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError
from melt_core.units import NS_PER_S

#: Kind of a series -> the unit it is stored in.
UNITS: Final[Mapping[str, str]] = {"power": "W", "current": "A", "voltage": "V", "energy": "J"}
#: Beyond so many usual intervals without a reading there is a gap.
GAP_INTERVALS: Final = 5.0
#: Gaps and warnings that are listed; the rest is counted.
MAX_LISTED: Final = 20


@dataclass(frozen=True)
class Recording:
    """Readings of one meter. A reading that failed is not in it: a gap is a gap.

    Attributes:
        time_ns: When, since the meter's time 0; rising.
        series: Kind (power, current, voltage, energy) -> values in W, A, V, J; NaN where one failed and others did not.
        source: The file or instrument they come from.
        start_wall_ns: Wall clock at time 0, ns since 1970 UTC; None where the meter does not say.
        warnings: What to know before trusting it.
    """

    time_ns: NDArray[np.int64]
    series: Mapping[str, NDArray[np.float64]]
    source: str
    start_wall_ns: int | None = None
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Checks what everything else leans on."""
        if len(self.time_ns) < 2:
            raise InvalidArgumentError(f"{self.source}: {len(self.time_ns)} readings, and two are needed at least")
        if np.any(np.diff(self.time_ns) <= 0):
            raise InvalidArgumentError(f"{self.source}: its times do not rise")
        unknown = set(self.series) - set(UNITS)
        if unknown or not self.series:
            raise InvalidArgumentError(
                f"{self.source}: a recording is of {', '.join(UNITS)}, not of {unknown or 'none'}"
            )

    @property
    def rate_hz(self) -> float:
        """Readings per second: 1 / median interval."""
        return float(NS_PER_S / np.median(np.diff(self.time_ns)))

    @property
    def duration_s(self) -> float:
        """From the first reading to the last."""
        return float(self.time_ns[-1] - self.time_ns[0]) / NS_PER_S

    @property
    def gaps_ns(self) -> list[tuple[int, int]]:
        """Spans without a reading: last before and first after each."""
        steps = np.diff(self.time_ns)
        at = np.flatnonzero(steps > GAP_INTERVALS * np.median(steps))
        return [(int(self.time_ns[i]), int(self.time_ns[i + 1])) for i in at.tolist()]

    def power_w(self) -> NDArray[np.float64]:
        """Returns the power: measured, or else current x voltage.

        Raises:
            InvalidArgumentError: It has neither.
        """
        if "power" in self.series:
            return self.series["power"]
        if "current" in self.series and "voltage" in self.series:
            return self.series["current"] * self.series["voltage"]
        raise InvalidArgumentError(
            f"{self.source} has no power, and not both current and voltage: give a fixed voltage (--voltage V)"
        )

    def with_voltage(self, volts: float) -> Recording:
        """Returns the recording with a fixed voltage, for a meter that read the current alone."""
        series = {**self.series, "voltage": np.full(len(self.time_ns), float(volts))}
        note = f"the voltage is not measured: {volts:g} V was given for all of it"
        return replace(self, series=series, warnings=(*self.warnings, note))


def bounded(texts: list[str]) -> tuple[str, ...]:
    """Returns warnings, and beyond twenty only how many more there were."""
    if len(texts) <= MAX_LISTED:
        return tuple(texts)
    return (*texts[:MAX_LISTED], f"{len(texts) - MAX_LISTED} more warnings of this sort were left out")


def gap_warnings(time_ns: NDArray[Any]) -> list[str]:
    """Returns one warning for all gaps of a recording; none if it has none."""
    steps = np.diff(time_ns)
    if not len(steps):
        return []
    at = np.flatnonzero(steps > GAP_INTERVALS * np.median(steps))
    if not len(at):
        return []
    longest_s = float(steps[at].max()) / NS_PER_S
    first_s = float(time_ns[at[0]] - time_ns[0]) / NS_PER_S
    return [
        f"{len(at)} gaps without readings, the first {first_s:.3f} s after the beginning, at most {longest_s:.3g} s"
    ]
