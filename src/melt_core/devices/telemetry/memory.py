"""Memory of a process and of the machine: ``/proc/PID/status``, ``/proc/PID/smaps_rollup``, ``/proc/meminfo``.

::

    status          VmHWM:     123456 kB
    smaps_rollup    55c3a000-7ffc2000 ---p 00000000 00:00 0    [rollup]
                    Rss:        1668 kB
                    Pss:         512 kB
    meminfo         MemAvailable:   5123456 kB
"""

from __future__ import annotations

import re

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, lines_of, number_of
from melt_core.errors import TelemetryError

_BYTES_PER_KB = 1024
_LINE = re.compile(r"^([A-Za-z0-9_()]{1,40}):\s*(\d{1,18}) kB$")

#: Key in the file -> site and kind; the words are those of level memory.
_STATUS = {"VmHWM": "peak_rss", "VmRSS": "rss", "RssAnon": "rss_anon", "RssFile": "rss_file", "VmSwap": "swap"}
_ROLLUP = {"Rss": "rss", "Pss": "pss", "Swap": "swap"}
_MEMINFO = {
    "MemTotal": "total",
    "MemFree": "free",
    "MemAvailable": "available",
    "Cached": "cached",
    "SwapFree": "swap_free",
}


def parse_status(text: str) -> Readout:
    """Returns resident memory of a process and its peak. Raises: TelemetryError: not a status file."""
    return _readout(text, "/proc/PID/status", "process", _STATUS, needs="VmRSS")


def parse_smaps_rollup(text: str) -> Readout:
    """Returns resident and proportional memory of a process. Raises: TelemetryError: not a smaps_rollup file."""
    if "[rollup]" not in text[:512]:
        raise TelemetryError("/proc/PID/smaps_rollup does not begin with its [rollup] line: Linux 4.14 or newer has it")
    return _readout(text, "/proc/PID/smaps_rollup", "process", _ROLLUP, needs="Rss")


def parse_meminfo(text: str) -> Readout:
    """Returns the machine's memory. Raises: TelemetryError: not a meminfo file."""
    return _readout(text, "/proc/meminfo", "mem", _MEMINFO, needs="MemTotal")


def _readout(text: str, source: str, site: str, kinds: dict[str, str], *, needs: str) -> Readout:
    sizes: dict[str, float] = {}
    for line in lines_of(text, source):
        entry = _LINE.match(line.strip())
        value = number_of(entry[2]) if entry else None
        if entry and value is not None:
            sizes.setdefault(entry[1], value * _BYTES_PER_KB)
    if needs not in sizes:
        raise TelemetryError(f'{source} has no "{needs}: N kB" line')
    built = ReadoutBuilder(source)
    for key, kind in kinds.items():
        if key in sizes:
            built.add(site, kind, "B", sizes[key], source=f"{source} {key}")
        else:
            built.lacks(f"{site}/{kind}/B", f"{source} has no {key}")
    return built.done()
