"""Dates and times of day in a meter's CSV file, as ns; daylight saving is resolved or refused, never passed over."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError

NS: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * NS
_DAY_NS: Final = 24 * _HOUR_NS
#: A step of an hour is a change of the clock if it is this near to one.
_NEAR_NS: Final = 60 * NS
_DATE_TIME: Final = re.compile(
    r"^(?:(?P<a>\d{1,4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,4})[T ]+)?"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?"
    r"\s*(?P<half>[AaPp][Mm])?\s*(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)
_EPOCH: Final = datetime.datetime(1970, 1, 1)


class DateReader:
    """Turns the cells of one column into ns; one after the other, as the order of days and zones needs."""

    def __init__(self, cells: Sequence[str], *, timezone: str | None, date_order: str | None, where: str) -> None:
        """Looks at all cells first: which number is the day has to hold for each of them.

        Raises:
            InvalidArgumentError: A cell is no date, or the order of day and month or the time zone cannot be told.
        """
        self._where = where
        self._zone = _zone(timezone, where)
        self._cells = cells
        self._parts = [self._match(i, cell) for i, cell in enumerate(cells)]
        self._order = date_order or self._day_order()

    def wall_ns(self) -> tuple[NDArray[np.int64], bool]:
        """Returns ns since 1970 UTC of each cell, and whether that is so: False where only their differences hold.

        Raises:
            InvalidArgumentError: A local time jumps by an hour, and no time zone says why; or times go back.
        """
        local = np.array([self._local_ns(part) for part in self._parts], np.int64)
        offsets = [self._offset_ns(part) for part in self._parts]
        if all(offset is not None for offset in offsets):
            return local - np.array(offsets, np.int64), True
        if any(offset is not None for offset in offsets):
            raise InvalidArgumentError(f"{self._where}: some of its times have a zone and some have none")
        if self._parts[0]["a"] is None:
            return self._across_midnight(local), False
        if self._zone is not None:
            return self._in_zone(local, self._zone), True
        self._refuse_clock_changes(local)
        return local, False

    def _match(self, index: int, cell: str) -> dict[str, Any]:
        match = _DATE_TIME.match(cell.strip())
        if match is None:
            raise InvalidArgumentError(
                f"{self._where}: reading {index + 1} has {cell!r} where others have a date and time"
            )
        return match.groupdict()

    def _day_order(self) -> str:
        """Returns "ymd", "dmy" or "mdy"."""
        dated = [part for part in self._parts if part["a"] is not None]
        if not dated or len(dated[0]["a"]) == 4:
            return "ymd"
        if any("." in cell[:6] for cell in self._cells[:1]):
            return "dmy"  # with points the day comes first
        first, second = ({int(part[key]) for part in dated} for key in ("a", "b"))
        if max(first) > 12 >= max(second):
            return "dmy"
        if max(second) > 12 >= max(first):
            return "mdy"
        raise InvalidArgumentError(
            f"{self._where}: {self._cells[0]!r} does not say which number is the day: say it (--date-order dmy or mdy)"
        )

    def _local_ns(self, part: dict[str, Any]) -> int:
        hour = int(part["hour"])
        if part["half"]:
            hour = hour % 12 + (12 if part["half"].lower() == "pm" else 0)
        fraction = int((part["fraction"] or "0").ljust(9, "0"))
        seconds = hour * 3600 + int(part["minute"]) * 60 + int(part["second"])
        if part["a"] is None:
            return seconds * NS + fraction
        numbers = dict(zip(self._order, (part["a"], part["b"], part["c"]), strict=True))
        try:
            day = datetime.datetime(int(numbers["y"]), int(numbers["m"]), int(numbers["d"]))
        except ValueError as error:
            raise InvalidArgumentError(
                f"{self._where}: there is no such date ({error}): is date_order right?"
            ) from error
        return ((day - _EPOCH).days * 86400 + seconds) * NS + fraction

    @staticmethod
    def _offset_ns(part: dict[str, Any]) -> int | None:
        zone = part["zone"]
        if zone is None:
            return None
        if zone == "Z":
            return 0
        digits = zone[1:].replace(":", "")
        offset = (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * NS
        return -offset if zone[0] == "-" else offset

    @staticmethod
    def _across_midnight(local: NDArray[np.int64]) -> NDArray[np.int64]:
        days = np.concatenate([[0], np.cumsum(np.diff(local) < -_DAY_NS // 2)])
        return np.asarray(local + days * _DAY_NS, np.int64)

    def _refuse_clock_changes(self, local: NDArray[np.int64]) -> None:
        steps = np.diff(local)
        changed = np.flatnonzero(np.abs(np.abs(steps) - _HOUR_NS) < _NEAR_NS)
        if len(changed):
            at = int(changed[0])
            way = "back" if steps[at] < 0 else "forward"
            raise InvalidArgumentError(
                f"{self._where}: time goes {way} by an hour after {self._cells[at]!r} (reading {at + 1}), as with "
                "daylight saving: give the zone that it was recorded in (--timezone Europe/Berlin)"
            )

    def _in_zone(self, local: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
        """Returns UTC; of an hour that comes twice, the second one where time would go back otherwise."""
        found = np.empty(len(local), np.int64)
        last = -(1 << 62)
        cached: dict[tuple[int, int], int] = {}
        for i, value in enumerate(local.tolist()):
            minute = value // (60 * NS)
            choices = []
            for fold in (0, 1):
                if (minute, fold) not in cached:
                    moment = (_EPOCH + datetime.timedelta(minutes=minute)).replace(tzinfo=zone, fold=fold)
                    offset = moment.utcoffset() or datetime.timedelta()
                    cached[minute, fold] = int(offset.total_seconds()) * NS
                choices.append(value - cached[minute, fold])
            later = [choice for choice in sorted(choices) if choice > last]
            found[i] = last = later[0] if later else choices[-1]
        return found


def _zone(name: str | None, where: str) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidArgumentError(
            f"{where}: this system knows no time zone {name!r}: write it as Europe/Berlin"
        ) from error
