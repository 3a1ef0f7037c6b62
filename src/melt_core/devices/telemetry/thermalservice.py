"""``dumpsys thermalservice``: temperatures and throttling of Android 10 and newer.

::

    Thermal Status: 0
    Cached temperatures:
            Temperature{mValue=41.0, mType=3, mName=SKIN, mStatus=0}
    HAL Ready: true
    Current temperatures from HAL:
            Temperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
    Current cooling devices from HAL:
            CoolingDevice{mValue=0, mType=2, mName=TYPE_CPU}

Only the block from the HAL is read, since cached values can be hours old. Names classify, types only where a name
says nothing: Samsung's types are not AOSP's (Android 12, Galaxy A52), Xiaomi's names are in lower case.
"""

from __future__ import annotations

import re

from melt_core.devices.telemetry.base import Absent, Readout, ReadoutBuilder, integer_of, lines_of, number_of
from melt_core.devices.telemetry.sites import SiteNames, slug
from melt_core.errors import TelemetryError

SOURCE = "dumpsys thermalservice"
COMMAND = ("dumpsys", "thermalservice")

_ENTRY = re.compile(r"^(Temperature|CoolingDevice)\{([^{}]{0,400})\}$")
_MOST_SENSORS = 128
_HIGHEST_STATUS = 6  # THERMAL_STATUS_SHUTDOWN


def parse(text: str) -> Readout:
    """Returns temperatures by site, and throttling levels.

    Raises:
        TelemetryError: It is not the thermal service's text.
    """
    built, names, cooling = ReadoutBuilder(SOURCE), SiteNames(), SiteNames()
    block, found, n_sensors = "", False, 0
    for line in lines_of(text, SOURCE):
        stripped = line.strip()
        entry = _ENTRY.match(stripped)
        if entry is None:
            block = stripped.rstrip(":") if stripped.endswith(":") else block
            found |= _add_status(built, stripped)
            continue
        found = True
        n_sensors += 1
        if n_sensors > _MOST_SENSORS:
            raise TelemetryError(f"{SOURCE} lists more than {_MOST_SENSORS} sensors: no device has that many")
        if block == "Current temperatures from HAL" and entry[1] == "Temperature":
            _add_temperature(built, names, _fields(entry[2]))
        elif block == "Current cooling devices from HAL" and entry[1] == "CoolingDevice":
            _add_cooling(built, cooling, _fields(entry[2]))
    if not found:
        raise TelemetryError(f"{SOURCE} gave no thermal state: Android 10 or newer has it")
    readout = built.done()
    if not any(reading.channel.kind == "temperature" for reading in readout.readings):
        built.lacks("temperature", f"{SOURCE} has no temperatures from the HAL")
    return built.done()


def _fields(body: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in body.split(", "))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _add_status(built: ReadoutBuilder, line: str) -> bool:
    if line.startswith("Thermal Status:"):
        level = integer_of(line.partition(":")[2])
        sound = level is not None and 0 <= level <= _HIGHEST_STATUS
        built.add("soc", "throttle", "level", float(level) if sound and level is not None else None)
        return True
    if line.startswith("HAL Ready:"):
        if line.partition(":")[2].strip() != "true":
            built.lacks("temperature", f"{SOURCE}: the thermal HAL is not ready")
        return True
    return False


def _add_temperature(built: ReadoutBuilder, names: SiteNames, fields: dict[str, str]) -> None:
    name = fields.get("mName", "")
    site = names.take(name, integer_of(fields.get("mType")))
    if isinstance(site, Absent):
        built.lacks(f"{site.what}/temperature/degC", site.reason)
        return
    built.add_temperature(site, number_of(fields.get("mValue")), source=f"{SOURCE} {name[:32]}")


def _add_cooling(built: ReadoutBuilder, names: SiteNames, fields: dict[str, str]) -> None:
    name = fields.get("mName", "").removeprefix("TYPE_")
    site = names.take(f"cooling-{slug(name)}")
    if isinstance(site, Absent):
        built.lacks(f"{site.what}/throttle/level", site.reason)
        return
    level = number_of(fields.get("mValue"))
    built.add(f"cooling-{slug(name)}"[:31], "throttle", "level", level, source=f"{SOURCE} {name[:32]}")
