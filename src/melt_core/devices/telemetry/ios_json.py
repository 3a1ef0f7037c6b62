"""JSON lines about an iPhone or iPad: ``pymobiledevice3 diagnostics battery monitor`` and ``dvt sysmon``, and the app.

::

    {"InstantAmperage": -312, "Temperature": 2980, "Voltage": 4123, "IsCharging": false, "CurrentCapacity": 85}
    {"thermalState": 1, "footprintBytes": 123456789}

mA (negative while discharging), 0.01 degC, mV, percent. What DVT calls energy is a relative figure without a unit:
it is no joule and is not read.
"""

from __future__ import annotations

import json
import math
from typing import Any

from melt_core.devices.telemetry.base import MAX_TEXT_BYTES, Readout, ReadoutBuilder
from melt_core.errors import TelemetryError

SOURCE = "ios"

_THERMAL_STATES = {"nominal": 0, "fair": 1, "serious": 2, "critical": 3}


def parse(line: str) -> Readout:
    """Returns what one JSON line says; keys that are not known are left out.

    Raises:
        TelemetryError: It is no JSON object.
    """
    if len(line) > MAX_TEXT_BYTES:
        raise TelemetryError(f"{SOURCE}: a line of {len(line)} characters is none of a battery monitor")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TelemetryError(f"{SOURCE}: not a JSON line: {line[:60]!r}") from error
    if not isinstance(values, dict):
        raise TelemetryError(f"{SOURCE}: a JSON object was expected, not {line[:60]!r}")
    built = ReadoutBuilder(SOURCE)
    _add_battery(built, values)
    _add_process(built, values)
    return built.done()


def _number(values: dict[str, Any], key: str, factor: float) -> float | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e18:
        return None
    return float(value) * factor if math.isfinite(value) else None


def _add_battery(built: ReadoutBuilder, values: dict[str, Any]) -> None:
    current = _number(values, "InstantAmperage", -1e-3)  # stored: positive while discharging
    voltage = _number(values, "Voltage", 1e-3)
    for name, kind, unit, value in (
        ("InstantAmperage", "current", "A", current),
        ("Voltage", "voltage", "V", voltage),
        ("CurrentCapacity", "charge_share", "ratio", _number(values, "CurrentCapacity", 0.01)),
    ):
        if name in values:
            built.add("battery", kind, unit, value, source=f"{SOURCE} {name}")
    if "Temperature" in values:
        built.add_temperature("battery", _number(values, "Temperature", 0.01), source=f"{SOURCE} Temperature")
    if isinstance(values.get("IsCharging"), bool):
        built.add("battery", "charging", "flag", float(values["IsCharging"]), source=f"{SOURCE} IsCharging")
    if current is not None and voltage is not None:
        built.add("battery", "power", "W", current * voltage, source=f"{SOURCE} Voltage x InstantAmperage")


def _add_process(built: ReadoutBuilder, values: dict[str, Any]) -> None:
    for key in ("footprintBytes", "physFootprint"):
        if key in values:
            built.add("process", "footprint", "B", _number(values, key, 1.0), source=f"{SOURCE} {key}")
            break
    if "cpuUsage" in values:
        built.add("process", "load", "ratio", _number(values, "cpuUsage", 0.01), source=f"{SOURCE} cpuUsage")
    state = values.get("thermalState")
    if state is None:
        return
    level = _THERMAL_STATES.get(state) if isinstance(state, str) else _number(values, "thermalState", 1.0)
    sound = level is not None and 0 <= level <= 3
    built.add(
        "soc",
        "throttle",
        "level",
        float(level) if sound and level is not None else None,
        source=f"{SOURCE} thermalState",
    )
