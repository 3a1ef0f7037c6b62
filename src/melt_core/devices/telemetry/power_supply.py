"""``/sys/class/power_supply``: batteries and chargers of phones and laptops.

Units by the kernel's ABI (uA, uV, uAh, uW, 0.1 degC); where a driver plainly uses others, the readout notes it.
"""

from __future__ import annotations

from collections.abc import Callable

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, number_of, scaled
from melt_core.devices.telemetry.current_sign import amperes, oriented
from melt_core.devices.telemetry.sites import slug
from melt_core.devices.telemetry.tree import FileTree

ROOT = "/sys/class/power_supply"
#: What is read of each supply: the files to fetch from a device.
FILES = (
    "type", "scope", "status", "online", "capacity", "current_now", "current_max", "constant_charge_current_max",
    "voltage_now", "charge_counter", "charge_now", "power_now", "temp", "present",
)  # fmt: skip

Value = Callable[[str], "float | None"]


def parse(tree: FileTree) -> Readout:
    """Returns the readings of every battery of the machine itself, and which chargers are on."""
    built = ReadoutBuilder(ROOT)
    online, n_batteries = [], 0
    for name in tree.entries(ROOT):
        kind = tree.read(f"{ROOT}/{name}/type")
        if kind is not None and kind != "Battery":
            if tree.read(f"{ROOT}/{name}/online") not in (None, "0"):
                online.append(name)
            continue
        if kind != "Battery" or tree.read(f"{ROOT}/{name}/scope") == "Device":  # a mouse's or a pen's
            continue
        site = "battery" if n_batteries == 0 else f"battery-{slug(name)}"[:31]
        n_batteries += 1
        _add_battery(built, tree, f"{ROOT}/{name}", site)
    built.fact("chargers_online", ", ".join(online[:8]) or "none")
    if not n_batteries:
        built.lacks("battery", f"{ROOT} has no battery")
    return built.done()


def _add_battery(built: ReadoutBuilder, tree: FileTree, folder: str, site: str) -> None:
    def value(name: str) -> float | None:
        return number_of(tree.read(f"{folder}/{name}"))

    status = (tree.read(f"{folder}/status") or "unknown").strip().lower()
    built.fact(f"{site}_status", status[:32])
    if status in ("charging", "discharging", "not charging", "full"):
        built.add(site, "charging", "flag", float(status == "charging"), source=f"{folder}/status")
    capacity = value("capacity")
    in_range = capacity is not None and 0 <= capacity <= 100
    built.add(site, "charge_share", "ratio", scaled(capacity, 0.01) if in_range else None, source=f"{folder}/capacity")
    voltage = _add_voltage(built, value("voltage_now"), folder, site)
    current = _add_current(built, value, folder, site, status)
    charge = next((name for name in ("charge_counter", "charge_now") if value(name) is not None), "charge_counter")
    built.add(site, "charge", "Ah", scaled(value(charge), 1e-6), source=f"{folder}/{charge}")
    temperature = value("temp")
    if temperature is not None:  # 0.1 degC; a battery of 100 degC or more is not measured but on fire
        factor = 0.1 if abs(temperature) < 1000 else 0.001
        built.add_temperature(site, temperature * factor, source=f"{folder}/temp")
    _add_power(built, value("power_now"), folder, site, (status, voltage, current))


def _add_voltage(built: ReadoutBuilder, raw: float | None, folder: str, site: str) -> float | None:
    if raw is None or raw <= 0:
        built.lacks(f"{site}/voltage/V", f"{folder}/voltage_now has none")
        return None
    in_milli = raw < 100_000  # 0.1 V as microvolts, 100 V as millivolts
    if in_milli:
        built.note(f"{folder}/voltage_now is taken for mV: {raw:g} uV is no battery")
    voltage = raw * (1e-3 if in_milli else 1e-6)
    built.add(site, "voltage", "V", voltage, source=f"{folder}/voltage_now")
    return voltage


def _add_current(built: ReadoutBuilder, value: Value, folder: str, site: str, status: str) -> float | None:
    raw = value("current_now")
    if raw is None:
        built.lacks(f"{site}/current/A", f"{folder}/current_now cannot be read")
        return None
    hints = tuple(
        limit for name in ("current_max", "constant_charge_current_max") if (limit := value(name)) is not None
    )
    signed, unit = amperes(raw, limits=hints)
    if unit == "mA" and raw:
        built.note(f"{folder}/current_now is taken for mA: its numbers are below 20000")
    current = oriented(signed, status)
    if current is None:
        built.lacks(f"{site}/current/A", f'direction not known while the status is "{status[:32]}"')
        return None
    if raw and (current > 0) == (raw > 0):
        built.note(f"{folder}/current_now is positive while discharging")
    built.add(site, "current", "A", current, source=f"{folder}/current_now")
    return current


def _add_power(
    built: ReadoutBuilder,
    raw_uw: float | None,
    folder: str,
    site: str,
    known: tuple[str, float | None, float | None],
) -> None:
    status, voltage, current = known
    if raw_uw is not None and (power := oriented(raw_uw * 1e-6, status)) is not None:
        built.add(site, "power", "W", power, source=f"{folder}/power_now")
    elif voltage is not None and current is not None:
        built.add(site, "power", "W", voltage * current, source=f"{folder} voltage_now x current_now")
