"""Names of sensors, as vendors give them, to sites of the trace: ``soc cpu gpu mem board battery skin ...``.

By name first: the numbers that go with the names differ between vendors (Samsung's thermal types are shifted by
one or more against AOSP's), the names do not.
"""

from __future__ import annotations

import re

from melt_core.devices.telemetry.base import Absent

MAX_SITE_CHARACTERS = 31

#: The first pattern that is found in the lower-case name decides.
_PATTERNS = (
    ("skin", r"skin|shell|surface|case\b|back_?cover|quiet"),
    ("battery", r"batt|^bat\b|^bms$|^bat[0-9_]"),
    ("gpu", r"gpu|g3d|mali|kgsl|3d-"),
    ("cpu", r"cpu|cpucl|^big|^mid\b|^little|silver|^gold|prime|^cl[0-9]|coretemp|x86_pkg|k10temp"),
    ("npu", r"npu|tpu|nsp|cdsp|nvdla|dla|^cv[0-9]|^cv-|apu"),
    ("usb", r"usb|chg|charg"),
    ("mem", r"ddr|dram|vddq|emc|\bmem|lpddr|s1s_vdd2l|vdd2"),
    ("modem", r"modem|mdm|^pa\b|^pa_|radio|wifi|wlan"),
    ("board", r"board|pcb|xo_therm|xo-therm|pmic|pm[0-9]|^ambient"),
    ("soc", r"^ap$|soc|^tj|junction|aoss|\bap_|mtktsap|cluster"),
)

#: AOSP's TemperatureType (hardware/interfaces/thermal), used only for names that say nothing.
_AOSP_TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 4: "usb", 5: "modem", 9: "npu"}


def slug(name: str) -> str:
    """Returns a name in lower case, with nothing but letters, digits and hyphens, short enough for a channel."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_SITE_CHARACTERS] or "unnamed"


def site_of(name: str, type_number: int | None = None) -> str:
    """Returns the site that a sensor's name stands for; the name itself where it says nothing."""
    lowered = name.strip().lower()
    for site, pattern in _PATTERNS:
        if re.search(pattern, lowered):
            return site
    return _AOSP_TYPES.get(type_number if type_number is not None else -1, slug(name))


class SiteNames:
    """Gives each sensor of a source its own site: the first of a kind takes the plain word, later ones add theirs."""

    def __init__(self) -> None:
        """Nothing is taken yet."""
        self._taken: set[str] = set()

    def take(self, name: str, type_number: int | None = None) -> str | Absent:
        """Returns the site for the next sensor, or what is wrong with it: a name that is there twice."""
        site = site_of(name, type_number)
        if site in self._taken:
            own = slug(name)
            site = own if own.startswith(site) else f"{site}-{own}"[:MAX_SITE_CHARACTERS]
        if site in self._taken:
            return Absent(site, f"a second sensor is called {name[:40]!r}")
        self._taken.add(site)
        return site
