"""INA238 power monitors, as on Jetson Thor: the kernel's hwmon driver gives power itself, in microwatts."""

from __future__ import annotations

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, number_of, scaled
from melt_core.devices.telemetry.sites import slug
from melt_core.devices.telemetry.tree import FileTree

ROOT = "/sys/class/hwmon"
FILES = ("name", "in1_input", "curr1_input", "power1_input", "temp1_input", "device/label", "label")


def parse(tree: FileTree) -> Readout:
    """Returns power, voltage, current and die temperature of each chip."""
    built = ReadoutBuilder(ROOT)
    n_chips = 0
    for name in tree.entries(ROOT):
        folder = f"{ROOT}/{name}"
        if tree.read(f"{folder}/name") not in ("ina238", "ina237"):
            continue
        label = tree.read(f"{folder}/label") or tree.read(f"{folder}/device/label")
        site = "board" if n_chips == 0 and not label else slug(label or f"ina238-{name}")
        n_chips += 1
        for kind, unit, file, factor in (
            ("power", "W", "power1_input", 1e-6),
            ("voltage", "V", "in1_input", 1e-3),  # the bus; in0 is the shunt
            ("current", "A", "curr1_input", 1e-3),
        ):
            built.add(
                site, kind, unit, scaled(number_of(tree.read(f"{folder}/{file}")), factor), source=f"{folder}/{file}"
            )
        temperature = number_of(tree.read(f"{folder}/temp1_input"))
        if temperature is not None:
            built.add_temperature(f"ina238-{name}"[:31], temperature * 1e-3, source=f"{folder}/temp1_input")
    if not n_chips:
        built.lacks("power", f"{ROOT} has no INA238")
    return built.done()
