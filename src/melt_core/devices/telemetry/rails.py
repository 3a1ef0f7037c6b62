"""Names of Jetson's power rails to sites, and the board's total: what INA3221 and tegrastats have in common."""

from __future__ import annotations

from melt_core.devices.telemetry.base import ReadoutBuilder
from melt_core.devices.telemetry.sites import slug

#: Rails that carry the whole module (Xavier: VIN; Nano: POM_5V_IN; Orin NX and Nano: VDD_IN).
TOTAL_RAILS = ("VIN", "POM_5V_IN", "VDD_IN")

#: Rails of one part alone. A rail of several, as VDD_CPU_GPU_CV, keeps its name: its power is nobody's own.
_SITES = {
    "POM_5V_GPU": "gpu",
    "POM_5V_CPU": "cpu",
    "VDD_CPU": "cpu",
    "VDD_GPU": "gpu",
    "VDD_SOC": "soc",
    "VDDRQ": "mem",
    "VDD_DDR": "mem",
    "VDDQ_VDD2_1V8AO": "mem",
    "CPU": "cpu",
    "GPU": "gpu",
    "SOC": "soc",
    "IN": "board",
}  # fmt: skip


def is_rail(label: str) -> bool:
    """Returns whether a label names a rail: an unconnected input is "NC", and channel 7 sums shunt voltages."""
    lowered = label.strip().lower()
    return bool(lowered) and lowered != "nc" and "sum" not in lowered


def site_of_rail(rail: str) -> str:
    """Returns the site of a rail."""
    name = rail.strip().upper()
    if name in TOTAL_RAILS:
        return "board"
    return _SITES.get(name, slug(name.removeprefix("VDD_").removeprefix("POM_5V_")))


def add_total(built: ReadoutBuilder, powers_w: dict[str, float], source: str) -> None:
    """Adds the board's power: that of the rail which carries all, else the sum of the rails, which says so."""
    if not powers_w or any(rail.upper() in (*TOTAL_RAILS, "IN") for rail in powers_w):
        return
    built.add("board", "power", "W", sum(powers_w.values()), source=f"sum of {len(powers_w)} rails of {source}")
    built.note(f"board power is the sum of {len(powers_w)} rails: what hangs on none of them is not in it")
