"""Lines of NVIDIA's ``tegrastats``: one a period, with everything a Jetson says about itself.

::

    11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU [90%@2201,off,...]
    EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 CV0@73.625C tj@77.281C VDD_GPU_SOC 3150mW/2971mW

Variants: no date (JetPack 4); rails without "mW" (``GPU 0/311``, JetPack 4 on Xavier); load without a clock
(``GR3D_FREQ 99%``); a clock without a load (``GR3D_FREQ @[1000,1000,1000]``, Thor); MHz without brackets.
A rail's two numbers are now and the average since tegrastats began; only the first is a sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from melt_core.devices.telemetry.base import Absent, Readout, ReadoutBuilder, lines_of, number_of
from melt_core.devices.telemetry.rails import add_total, site_of_rail
from melt_core.devices.telemetry.sites import SiteNames
from melt_core.errors import TelemetryError

SOURCE = "tegrastats"
#: It prints until it is ended; its first line comes after one period, in ms, and is about that.
COMMAND = ("sh", "-c", "tegrastats --interval 100 | head -n 1")

_BYTES_PER_MB = 1 << 20
_HZ_PER_MHZ = 1e6
_MOST_PARTS = 128

_DATE = re.compile(r"^(\d{2}-\d{2}-\d{4} \d{2}:\d{2}:\d{2})\s+")
_MEMORY = re.compile(r"\b(RAM|SWAP|IRAM) (\d{1,9})/(\d{1,9})(MB|kB)")
_CPU = re.compile(r"\bCPU \[([^\[\]]{1,2000})\]")
_CORE = re.compile(r"^(\d{1,3})%@(\d{1,6})$")
_ENGINE = re.compile(
    r"\b(GR3D|EMC|GR3D2|VIC|NVENC|NVDEC|NVDLA\d|PVA\d|APE|MSENC)(_FREQ)? "
    r"((?:\d{1,3}%)?@?(?:\[[\d,]{1,80}\]|\d{1,6})?)(?=\s|$)"
)
_LOAD_AND_CLOCK = re.compile(r"^(?:(\d{1,3})%)?(?:@?\[?([\d,]+)\]?)?$")
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z][A-Za-z0-9_.-]{0,30})@(-?\d{1,4}(?:\.\d{1,4})?)C(?=\s|$)")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]{1,30}) (\d{1,7})(?:mW)?/(\d{1,7})(mW)?(?=\s|$)")
_ENGINE_SITES = {"GR3D": "gpu", "GR3D2": "gpu-2", "EMC": "mem"}


def parse(line: str) -> Readout:
    """Returns what one line says.

    Raises:
        TelemetryError: It is no line of tegrastats.
    """
    lines = [text for text in lines_of(line, SOURCE) if text.strip()]
    if len(lines) != 1 or not _MEMORY.search(lines[0]):
        raise TelemetryError(f"{SOURCE}: a line with RAM and CPU was expected, not {line[:60]!r}")
    text = lines[0].strip()
    built = ReadoutBuilder(SOURCE)
    if date := _DATE.match(text):
        built.fact("tegrastats_time", date[1])
        text = text[date.end() :]
    for step in (_add_memory, _add_cores, _add_engines, _add_temperatures, _add_rails):
        step(built, text)
    return built.done()


def _bounded(pattern: re.Pattern[str], text: str, take: Callable[[re.Match[str]], None]) -> None:
    for number, entry in enumerate(pattern.finditer(text)):
        if number >= _MOST_PARTS:
            raise TelemetryError(f"{SOURCE}: a line with more than {_MOST_PARTS} parts of a kind is none of it")
        take(entry)


def _add_memory(built: ReadoutBuilder, text: str) -> None:
    def take(entry: re.Match[str]) -> None:
        scale = _BYTES_PER_MB if entry[4] == "MB" else 1024
        site = {"RAM": "mem", "SWAP": "swap", "IRAM": "iram"}[entry[1]]
        built.add(site, "used", "B", float(entry[2]) * scale)
        built.add(site, "total", "B", float(entry[3]) * scale)

    _bounded(_MEMORY, text, take)


def _add_cores(built: ReadoutBuilder, text: str) -> None:
    block = _CPU.search(text)
    if block is None:
        built.lacks("cpu/load/ratio", f"{SOURCE} has no CPU [...]")
        return
    loads = []
    for number, core in enumerate(block[1].split(",")[:_MOST_PARTS]):
        entry = _CORE.match(core.strip())
        if entry is None:  # "off", or a form unknown to us
            built.lacks(f"cpu{number}/load/ratio", f"{SOURCE} says {core.strip()[:20]!r}")
            continue
        loads.append(float(entry[1]) / 100)
        built.add(f"cpu{number}", "load", "ratio", loads[-1])
        built.add(f"cpu{number}", "frequency", "Hz", float(entry[2]) * _HZ_PER_MHZ)
    if loads:
        built.add("cpu", "load", "ratio", sum(loads) / len(loads), source=f"{SOURCE}, mean of {len(loads)} cores")


def _add_engines(built: ReadoutBuilder, text: str) -> None:
    def take(entry: re.Match[str]) -> None:
        value = _LOAD_AND_CLOCK.match(entry[3]) if entry[3] else None
        if value is None:
            return
        site = _ENGINE_SITES.get(entry[1], entry[1].lower())
        load, clock = value[1], value[2]
        if load is not None:
            built.add(site, "load", "ratio", float(load) / 100)
        clocks = [number_of(part) for part in (clock or "").split(",")]
        known = [mhz for mhz in clocks if mhz is not None]
        if known:  # several: one per cluster of the GPU; the highest is what bounds a kernel
            built.add(site, "frequency", "Hz", max(known) * _HZ_PER_MHZ)

    _bounded(_ENGINE, text, take)


def _add_temperatures(built: ReadoutBuilder, text: str) -> None:
    names = SiteNames()

    def take(entry: re.Match[str]) -> None:
        site = names.take(entry[1])
        if isinstance(site, Absent):
            built.lacks(f"{site.what}/temperature/degC", site.reason)
        else:
            built.add_temperature(site, number_of(entry[2]), source=f"{SOURCE} {entry[1]}")

    _bounded(_TEMPERATURE, text, take)


def _add_rails(built: ReadoutBuilder, text: str) -> None:
    powers_w: dict[str, float] = {}

    def take(entry: re.Match[str]) -> None:
        if entry[1] in ("RAM", "SWAP", "IRAM"):
            return
        power = float(entry[2]) / 1e3
        built.add(site_of_rail(entry[1]), "power", "W", power, source=f"{SOURCE} {entry[1]}")
        powers_w.setdefault(entry[1], power)

    _bounded(_RAIL, text, take)
    if not powers_w:
        built.lacks("power", f"{SOURCE} lists no rails: run it as root, or on a board with a power monitor")
    add_total(built, powers_w, SOURCE)
