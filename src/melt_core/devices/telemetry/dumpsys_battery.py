"""``dumpsys battery``: what Android's battery service says; changes every few seconds at best.

::

    Current Battery Service state:
      AC powered: false
      USB powered: true
      Charge counter: 3021000        uAh
      status: 2                      2 charging, 3 discharging, 4 not charging, 5 full
      level: 85                      of scale: 100
      voltage: 4123                  mV
      temperature: 253               0.1 degC
      current now: -312              mA, Samsung only

Keys that are not known are left out: vendors add their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, integer_of, lines_of, number_of, scaled
from melt_core.devices.telemetry.current_sign import oriented
from melt_core.errors import TelemetryError

SOURCE = "dumpsys battery"
COMMAND = ("dumpsys", "battery")

STATUS = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_POWERED = ("AC powered", "USB powered", "Wireless powered", "Dock powered")


@dataclass(frozen=True)
class BatteryState:
    """What the service said; None where it did not."""

    powered_by: tuple[str, ...]
    status: str | None
    level_ratio: float | None
    voltage_v: float | None
    temperature_c: float | None
    charge_ah: float | None
    current_now_raw: float | None
    is_faked: bool


def parse_state(text: str) -> BatteryState:
    """Reads the service's text.

    Raises:
        TelemetryError: It is not the battery service's.
    """
    values: dict[str, str] = {}
    is_service, is_faked = False, False
    for line in lines_of(text, SOURCE):
        if "Battery Service state" in line:
            is_service = True
        is_faked = is_faked or "UPDATES STOPPED" in line
        key, colon, value = line.strip().partition(":")
        if colon and key not in values:  # Samsung repeats keys in a history further down
            values[key] = value.strip()
    if not is_service or "level" not in values:
        raise TelemetryError(f'{SOURCE} gave no "Battery Service state" with a level: is this an Android device?')
    level, scale = number_of(values.get("level")), number_of(values.get("scale"))
    ratio = level / scale if level is not None and scale is not None and 0 <= level <= scale and scale > 0 else None
    status = integer_of(values.get("status"))
    charge = number_of(values.get("Charge counter"))
    voltage = number_of(values.get("voltage"))
    return BatteryState(
        powered_by=tuple(key.removesuffix(" powered") for key in _POWERED if values.get(key) == "true"),
        status=None if status is None else STATUS.get(status, "unknown"),
        level_ratio=ratio,
        # Some report volts; nothing between 20 V and 1000 mV can be meant.
        voltage_v=scaled(voltage, 1.0 if voltage is not None and voltage < 20 else 1e-3),
        temperature_c=scaled(number_of(values.get("temperature")), 0.1),
        charge_ah=scaled(charge, 1e-6) if charge else None,  # 0 is what a device without a counter says
        current_now_raw=number_of(values.get("current now")),
        is_faked=is_faked,
    )


def parse(text: str) -> Readout:
    """Returns the battery's readings. Raises: TelemetryError as `parse_state` does."""
    state = parse_state(text)
    built = ReadoutBuilder(SOURCE)
    built.add("battery", "charge_share", "ratio", state.level_ratio)
    built.add("battery", "voltage", "V", state.voltage_v if state.voltage_v else None)
    built.add_temperature("battery", state.temperature_c)
    built.add("battery", "charge", "Ah", state.charge_ah)
    if state.status in ("charging", "discharging", "not charging", "full"):
        built.add("battery", "charging", "flag", float(state.status == "charging"))
    else:
        built.lacks("battery/charging/flag", f"{SOURCE} says status {state.status}")
    if state.current_now_raw is not None:  # mA, whatever the kernel's driver has
        current = oriented(state.current_now_raw * 1e-3, state.status)
        built.add("battery", "current", "A", current)
    built.fact("battery_status", state.status or "unknown")
    built.fact("powered_by", ", ".join(state.powered_by) or "battery")
    if state.is_faked:
        built.note("dumpsys battery: updates are stopped, the values are set by hand (dumpsys battery reset ends that)")
    return built.done()
