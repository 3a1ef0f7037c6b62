"""Series of samples, by channel: what a sensor read over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import ChunkKind
from melt_core.trace.tables import decode_text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace


@dataclass(frozen=True)
class Series:
    """Readings of one channel, in order of time; `time_ns` is since the trace began."""

    site: str
    kind: str
    unit: str
    source: str
    time_ns: NDArray[Any]
    values: NDArray[Any]

    @property
    def name(self) -> str:
        """Returns "site/kind"."""
        return f"{self.site}/{self.kind}"

    @property
    def last(self) -> float:
        """The latest reading; NaN if there is none."""
        return float(self.values[-1]) if len(self.values) else float("nan")

    def between(self, start_ns: int, end_ns: int) -> Series:
        """Returns the readings from `start_ns` to `end_ns`, both included."""
        kept = (self.time_ns >= start_ns) & (self.time_ns <= end_ns)
        return Series(self.site, self.kind, self.unit, self.source, self.time_ns[kept], self.values[kept])

    def growth(self, start_ns: int, end_ns: int) -> float:
        """Returns by how much a counter grew between first and last reading in an interval; NaN for fewer than two."""
        found = self.between(start_ns, end_ns)
        return float(found.values[-1]) - float(found.values[0]) if len(found.values) > 1 else float("nan")


def series_of(trace: Trace) -> dict[str, Series]:
    """Returns every channel of a trace by "site/kind"; of channels of one name the first counts."""
    channels, samples = trace.records(ChunkKind.CHANNELS), trace.records(ChunkKind.SAMPLES)
    samples = samples[np.isfinite(samples["value"])]
    # By channel, and by time within each; readings of one time stay in file order, because lexsort is stable.
    samples = samples[np.lexsort((samples["time_ns"], samples["channel"]))]
    numbers = np.ascontiguousarray(samples["channel"])
    begins = np.searchsorted(numbers, channels["channel"], "left").tolist()
    ends = np.searchsorted(numbers, channels["channel"], "right").tolist()
    found: dict[str, Series] = {}
    text = {name: decode_text(channels[name]) for name in ("site", "kind", "unit", "source")}
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        own = samples[begin:end]
        series = Series(
            **{name: values[row] for name, values in text.items()}, time_ns=own["time_ns"], values=own["value"]
        )
        found.setdefault(series.name, series)
    return found
