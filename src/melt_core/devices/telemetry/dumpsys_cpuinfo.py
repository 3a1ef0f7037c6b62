"""``dumpsys cpuinfo``: what kept an Android device busy, over a window that lies in the past.

::

    Load: 12.3 / 10.1 / 9.8
    CPU usage from 14273ms to 9261ms ago (2026-11-21 08:49:48.123 to 2026-11-21 08:49:53.135):
      12% 1234/system_server: 8% user + 4% kernel / faults: 100 minor 2 major
    7.6% TOTAL: 3.9% user + 3.2% kernel + 0.1% iowait

A process's share is of one core, TOTAL of all. For a gate ("is anything else busy?"), not for a time series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, lines_of, number_of
from melt_core.errors import TelemetryError

SOURCE = "dumpsys cpuinfo"
COMMAND = ("dumpsys", "cpuinfo")

_NUMBER = r"([0-9]{1,6}(?:\.[0-9]{1,3})?)"
_LOAD = re.compile(rf"^Load: {_NUMBER} / {_NUMBER} / {_NUMBER}$")
_WINDOW = re.compile(r"^CPU usage from (\d{1,12})ms to (-?\d{1,12})ms (ago|later)\b")
_PROCESS = re.compile(rf"^[+-]?{_NUMBER}% (\d{{1,8}})/([^:]{{1,200}}):")
_TOTAL = re.compile(rf"^{_NUMBER}% TOTAL:")
_MOST_PROCESSES = 2000


@dataclass(frozen=True)
class CpuUse:
    """Use of the cores over a window that ended `ended_ms_ago`."""

    load_average: tuple[float, float, float] | None
    began_ms_ago: float | None
    ended_ms_ago: float | None
    total_ratio: float | None
    processes: tuple[tuple[int, str, float], ...]  # PID, name, share of one core


def parse_use(text: str) -> CpuUse:
    """Reads the text.

    Raises:
        TelemetryError: It is not that of ``dumpsys cpuinfo``.
    """
    load: tuple[float, float, float] | None = None
    began = ended = total = None
    processes: list[tuple[int, str, float]] = []
    for line in lines_of(text, SOURCE):
        line = line.strip()
        if entry := _LOAD.match(line):
            load = (float(entry[1]), float(entry[2]), float(entry[3]))
        elif entry := _WINDOW.match(line):
            began, ended = float(entry[1]), float(entry[2]) * (1 if entry[3] == "ago" else -1)
        elif entry := _TOTAL.match(line):
            total = float(entry[1]) / 100
        elif (entry := _PROCESS.match(line)) and len(processes) < _MOST_PROCESSES:
            processes.append((int(entry[2]), entry[3], float(entry[1]) / 100))
    if load is None and total is None:
        raise TelemetryError(f'{SOURCE} gave neither a "Load:" nor a "TOTAL:" line')
    return CpuUse(load, began, ended, total, tuple(processes))


def parse(text: str) -> Readout:
    """Returns the load of all cores, 0..1. Raises: TelemetryError as `parse_use` does."""
    use = parse_use(text)
    built = ReadoutBuilder(SOURCE)
    sound = use.total_ratio is not None and number_of(str(use.total_ratio)) is not None and use.total_ratio <= 1
    built.add("cpu", "load", "ratio", use.total_ratio if sound else None)
    if use.load_average is not None:
        built.fact("load_average", f"{use.load_average[0]:g}")
    if use.began_ms_ago is not None and use.ended_ms_ago is not None:
        built.note(f"{SOURCE} is about a window of {(use.began_ms_ago - use.ended_ms_ago) / 1e3:.1f} s in the past")
    for pid, name, share in use.processes[:3]:
        built.fact(f"busy_{pid}", f"{name[:40]} {share:.0%} of a core")
    return built.done()
