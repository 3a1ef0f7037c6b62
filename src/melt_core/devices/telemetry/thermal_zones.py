"""``/sys/class/thermal/thermal_zone*``: temperatures by zone; millidegrees, or degrees with some drivers."""

from __future__ import annotations

from melt_core.devices.telemetry.base import Absent, Readout, ReadoutBuilder, number_of
from melt_core.devices.telemetry.sites import SiteNames
from melt_core.devices.telemetry.tree import FileTree

ROOT = "/sys/class/thermal"
FILES = ("type", "temp")

_MOST_DEGREES = 200.0  # above it a number can only be millidegrees
_MOST_ZONES = 256


def parse(tree: FileTree) -> Readout:
    """Returns one temperature per zone, by site; zones that read as junk are absent with what they said."""
    built, names = ReadoutBuilder(ROOT), SiteNames()
    zones = [name for name in tree.entries(ROOT) if name.startswith("thermal_zone")][:_MOST_ZONES]
    for zone in zones:
        folder = f"{ROOT}/{zone}"
        kind = tree.read(f"{folder}/type") or zone
        site = names.take(kind.removesuffix("-thermal").removesuffix("-therm").removesuffix("_therm"))
        if isinstance(site, Absent):
            built.lacks(f"{site.what}/temperature/degC", site.reason)
            continue
        raw = number_of(tree.read(f"{folder}/temp"))
        if raw is None:
            built.lacks(f"{site}/temperature/degC", f"{folder}/temp cannot be read")
            continue
        built.add_temperature(site, raw / 1000 if abs(raw) > _MOST_DEGREES else raw, source=f"{folder}/temp {kind}")
    if not zones:
        built.lacks("temperature", f"{ROOT} has no thermal zones")
    return built.done()
