"""INA3221 power monitors of Jetson boards: by the kernel's hwmon driver (JetPack 5 and newer) or NVIDIA's IIO one (4).

::

    JetPack 5+  /sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/{in1_label,in1_input mV,curr1_input mA}
    JetPack 4   /sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/{rail_name_0,in_power0_input mW, in_current0_input,
                in_voltage0_input}

With hwmon power is voltage x current, both averaged by the chip, so a product of averages.
"""

from __future__ import annotations

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, number_of, scaled
from melt_core.devices.telemetry.rails import add_total, is_rail, site_of_rail
from melt_core.devices.telemetry.tree import FileTree

HWMON_ROOT = "/sys/bus/i2c/drivers/ina3221"
IIO_ROOT = "/sys/bus/i2c/drivers/ina3221x"

_CHANNELS = 3


def parse(tree: FileTree) -> Readout:
    """Returns voltage, current and power of each rail, and the board's power."""
    built = ReadoutBuilder(HWMON_ROOT)
    powers_w: dict[str, float] = {}
    chips = _hwmon_folders(tree)
    for folder in chips:
        for number in range(1, _CHANNELS + 1):
            _add_hwmon_rail(built, tree, (folder, number), powers_w)
    iio = [] if chips else _iio_folders(tree)
    for folder in iio:
        for number in range(_CHANNELS):
            _add_iio_rail(built, tree, (folder, number), powers_w)
    if not chips and not iio:
        built.lacks("power", f"no INA3221 under {HWMON_ROOT} or {IIO_ROOT}")
    add_total(built, powers_w, "INA3221")
    return built.done()


def _hwmon_folders(tree: FileTree) -> list[str]:
    return [
        f"{HWMON_ROOT}/{chip}/hwmon/{name}"
        for chip in tree.entries(HWMON_ROOT)
        for name in tree.entries(f"{HWMON_ROOT}/{chip}/hwmon")
    ]


def _iio_folders(tree: FileTree) -> list[str]:
    return [
        f"{IIO_ROOT}/{chip}/{name}"
        for chip in tree.entries(IIO_ROOT)
        for name in tree.entries(f"{IIO_ROOT}/{chip}")
        if name.startswith("iio:device")
    ]


def _add_hwmon_rail(built: ReadoutBuilder, tree: FileTree, where: tuple[str, int], powers_w: dict[str, float]) -> None:
    folder, number = where
    rail = tree.read(f"{folder}/in{number}_label")
    if rail is None or not is_rail(rail):
        return
    source = f"{folder.removeprefix('/sys/bus/i2c/drivers/')}/in{number}_input x curr{number}_input"
    voltage = scaled(number_of(tree.read(f"{folder}/in{number}_input")), 1e-3)
    current = scaled(number_of(tree.read(f"{folder}/curr{number}_input")), 1e-3)
    _add_rail(built, (rail, source), (voltage, current, None), powers_w)


def _add_iio_rail(built: ReadoutBuilder, tree: FileTree, where: tuple[str, int], powers_w: dict[str, float]) -> None:
    folder, number = where
    rail = tree.read(f"{folder}/rail_name_{number}")
    if rail is None or not is_rail(rail):
        return
    values = [
        scaled(number_of(tree.read(f"{folder}/in_{kind}{number}_input")), 1e-3) for kind in ("voltage", "current")
    ]
    power = scaled(number_of(tree.read(f"{folder}/in_power{number}_input")), 1e-3)
    source = f"{folder.removeprefix('/sys/bus/i2c/drivers/')}/in_power{number}_input"
    _add_rail(built, (rail, source), (values[0], values[1], power), powers_w)


def _add_rail(
    built: ReadoutBuilder,
    name: tuple[str, str],
    values: tuple[float | None, float | None, float | None],
    powers_w: dict[str, float],
) -> None:
    rail, source = name
    voltage, current, power = values
    site = site_of_rail(rail)
    if voltage is None or current is None:
        built.lacks(f"{site}/power/W", f"{source} cannot be read")
        if power is None:
            return
    else:
        built.add(site, "voltage", "V", voltage, source=f"{source} {rail}")
        built.add(site, "current", "A", current, source=f"{source} {rail}")
        power = voltage * current if power is None else power
    built.add(site, "power", "W", power, source=f"{source} {rail}")
    powers_w[rail] = power
