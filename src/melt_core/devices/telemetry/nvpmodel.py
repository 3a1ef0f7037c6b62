"""``nvpmodel -q``: a Jetson's power mode, which caps clocks and turns cores off.

::

    NV Power Mode: MODE_30W
    2
"""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.devices.telemetry.base import integer_of, lines_of
from melt_core.errors import TelemetryError

SOURCE = "nvpmodel -q"
COMMAND = ("nvpmodel", "-q")
_HEAD = "NV Power Mode:"


@dataclass(frozen=True)
class PowerMode:
    """The mode's name, such as ``MODE_30W`` or ``MAXN``, and its number in /etc/nvpmodel.conf."""

    name: str
    number: int | None


def parse(text: str) -> PowerMode:
    """Reads the answer; warnings that older releases print before it are passed over.

    Raises:
        TelemetryError: There is no power mode in it.
    """
    lines = [line.strip() for line in lines_of(text, SOURCE)]
    for row, line in enumerate(lines):
        if line.startswith(_HEAD) and line.removeprefix(_HEAD).strip():
            following = next((after for after in lines[row + 1 :] if after), None)
            return PowerMode(line.removeprefix(_HEAD).strip()[:64], integer_of(following))
    raise TelemetryError(f'{SOURCE} gave no "{_HEAD}" line: is this a Jetson, and may this user ask?')
