"""On-device power monitor of Pixel 6 and newer: energy counters of the power rails, in IIO devices.

::

    /sys/bus/iio/devices/iio:device0/name           s2mpg10-odpm
    .../enabled_rails                               CH0[S1M_VDD_MIF]:MIF
    .../energy_value                                t=1234567
                                                    CH0(T=1234567)[S1M_VDD_MIF], 89012345

Energy in microwatt-seconds since the chip started. Not readable by the adb shell on user builds: absent, said so.
"""

from __future__ import annotations

import re

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, lines_of, number_of
from melt_core.devices.telemetry.sites import site_of, slug
from melt_core.devices.telemetry.tree import FileTree
from melt_core.errors import TelemetryError

ROOT = "/sys/bus/iio/devices"
FILES = ("name", "energy_value", "enabled_rails")

_J_PER_UWS = 1e-6
_MOST_RAILS = 64
_NAMES = re.compile(r"odpm|pac19")
_ENERGY = re.compile(r"^CH(\d{1,3})(?:\(T=(\d{1,20})\))?\[([^\[\]]{1,64})\],\s*(\d{1,24})$")
_ENABLED = re.compile(r"^CH(\d{1,3})\[([^\[\]]{1,64})\]:(.{1,64})$")

#: Pixel rails whose names hold no word that tells (perfetto, power_rails_well_known.textproto).
_RAIL_SITES = {"mif": "mem", "g3d": "gpu", "cpucl": "cpu", "tpu": "npu", "int": "soc", "aoc": "aoc", "ldo": "board"}


def parse(tree: FileTree) -> Readout:
    """Returns a running energy counter for each enabled rail.

    Raises:
        TelemetryError: A monitor is there, but what it says is not of its format.
    """
    built = ReadoutBuilder(ROOT)
    found = False
    taken: set[str] = set()
    for device in tree.entries(ROOT):
        folder = f"{ROOT}/{device}"
        if not _NAMES.search(tree.read(f"{folder}/name") or ""):
            continue
        found = True
        text = tree.read(f"{folder}/energy_value")
        if not text:
            built.lacks("energy", f"{folder}/energy_value cannot be read: user builds keep it from the adb shell")
            continue
        subsystems = enabled_rails(tree.read(f"{folder}/enabled_rails") or "")
        for rail, energy_j in energies(text).items():
            site = _site_of(rail, subsystems.get(rail, ""))
            site = f"{site}-{slug(rail)}"[:31] if site in taken else site
            taken.add(site)
            built.add(site, "energy", "J", energy_j, source=f"{folder}/energy_value {rail}")
    if not found:
        built.lacks("energy", f"{ROOT} has no on-device power monitor")
    return built.done()


def energies(text: str) -> dict[str, float]:
    """Returns joules by rail from ``energy_value``. Raises: TelemetryError if a line is not of that form."""
    found: dict[str, float] = {}
    for line in lines_of(text, "energy_value"):
        line = line.strip()
        if not line or re.match(r"^t=\d{1,20}$", line):
            continue
        entry = _ENERGY.match(line)
        value = number_of(entry[4]) if entry else None
        if entry is None or value is None or len(found) >= _MOST_RAILS:
            raise TelemetryError(f"energy_value has a line that is no rail with its energy: {line[:60]!r}")
        found[entry[3]] = value * _J_PER_UWS
    return found


def enabled_rails(text: str) -> dict[str, str]:
    """Returns the subsystem of each rail; lines of another form are left out."""
    entries = (_ENABLED.match(line.strip()) for line in lines_of(text, "enabled_rails"))
    return {entry[2]: entry[3].strip() for entry in entries if entry}


def _site_of(rail: str, subsystem: str) -> str:
    words = f"{rail} {subsystem}".lower()
    for part, site in _RAIL_SITES.items():
        if part in words:
            return site
    return site_of(subsystem or rail)
