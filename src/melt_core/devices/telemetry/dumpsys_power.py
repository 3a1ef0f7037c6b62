"""``dumpsys power``: whether an Android device is awake, and its screen on.

::

    POWER MANAGER (dumpsys power)

    Power Manager State:
      mWakefulness=Awake                  Awake, Asleep, Dozing (always-on display), Dreaming (screen saver)
      mStayOn=false
    Display Power: state=ON               OFF, ON, DOZE, DOZE_SUSPEND; not printed by every release

After AOSP's PowerManagerService.dump and PowerManagerInternal.wakefulnessToString. The text has some thousand lines and
takes the device some milliseconds: it is for a gate before a run, not for a series.
"""

from __future__ import annotations

import re

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, lines_of
from melt_core.errors import TelemetryError

SOURCE = "dumpsys power"
COMMAND = ("dumpsys", "power")

_WAKEFULNESS = re.compile(r"^\s*mWakefulness=(Awake|Asleep|Dozing|Dreaming)\s*$")
_DISPLAY = re.compile(r"^\s*Display Power: state=(OFF|ON|DOZE|DOZE_SUSPEND|ON_SUSPEND|VR)\s*$")


def parse(text: str) -> Readout:
    """Returns the facts ``wakefulness`` and ``screen``, which is ``on`` or ``off``.

    Raises:
        TelemetryError: It is not the power service's.
    """
    wakefulness = display = None
    for line in lines_of(text, SOURCE):
        if wakefulness is None and (found := _WAKEFULNESS.match(line)):
            wakefulness = found[1]
        elif display is None and (found := _DISPLAY.match(line)):
            display = found[1]
    if wakefulness is None:
        raise TelemetryError(f"{SOURCE} gave no mWakefulness: is this an Android device?")
    built = ReadoutBuilder(SOURCE)
    built.fact("wakefulness", wakefulness)
    is_on = wakefulness in ("Awake", "Dreaming") and display in (None, "ON", "VR")
    built.fact("screen", "on" if is_on else "off")
    return built.done()
