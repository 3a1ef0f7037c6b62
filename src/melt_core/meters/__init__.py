"""External power meters on the host, and how their readings get into a trace.

    CSV file, Monsoon, SCPI instrument -> Recording (the meter's own clock) -> align -> merge -> a trace with meter/...

Example:
    >>> from melt_core.meters import read_csv, align_by_load, merge
    >>> recording = read_csv("monsoon.csv")            # doctest: +SKIP
    >>> fit = align_by_load(trace, recording)          # doctest: +SKIP
    >>> merge(trace, recording, fit, "with-meter.melt")  # doctest: +SKIP
"""

from __future__ import annotations

from melt_core.meters.align import ClockFit, align_by_load, align_by_pulses, align_by_wall_clock, marker_times
from melt_core.meters.csv_file import read_csv
from melt_core.meters.csv_write import write_csv
from melt_core.meters.merge import merge, merged_bytes
from melt_core.meters.monsoon import Monsoon
from melt_core.meters.recording import Recording
from melt_core.meters.scpi import ScpiMeter

__all__ = [
    "ClockFit",
    "Monsoon",
    "Recording",
    "ScpiMeter",
    "align_by_load",
    "align_by_pulses",
    "align_by_wall_clock",
    "marker_times",
    "merge",
    "merged_bytes",
    "read_csv",
    "write_csv",
]
