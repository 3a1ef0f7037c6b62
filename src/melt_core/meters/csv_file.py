"""Reads the CSV file of any meter.

Separator, decimal sign, header, columns, units and times are found from the file; where that could be done in two ways
the file is refused with what to say. A cell that is no number is left out, counted and named; too many of them are an
error.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.meters.csv_columns import Column, choose_columns
from melt_core.meters.csv_dialect import Dialect, detect
from melt_core.meters.csv_times import DateReader
from melt_core.meters.csv_write import WARNING_MARK
from melt_core.meters.recording import Recording, bounded, gap_warnings
from melt_core.trace.storage import checked_name

#: Of the rows that cannot be read: above this share the file is not what it was taken for.
MAX_BAD_RATIO: Final = 0.1
MAX_ROWS: Final = 50_000_000
#: SCPI instruments write this for "overload" and "no value" (IEEE 488.2).
_NO_VALUE: Final = 9.9e37


def read_csv(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    timezone: str | None = None,
    date_order: str | None = None,
) -> Recording:
    """Reads a meter's CSV file; what it does not say itself is found, or has to be given.

    Args:
        path: The file.
        columns: Kind (time, power, current, voltage, energy) -> header of its column.
        units: Kind -> unit, where the header does not say it: ``{"time": "ms", "current": "mA"}``.
        separator: Of the cells.
        decimal: ``"."`` or ``","``.
        timezone: In which local times without an offset were written, as ``"Europe/Berlin"``.
        date_order: ``"ymd"``, ``"dmy"`` or ``"mdy"``.

    Raises:
        StorageError: The file cannot be read.
        InvalidArgumentError: It is no such table, a column, unit or date can be read in two ways, times go back or jump
            by an hour, or more than a tenth of its rows cannot be read.
    """
    file = Path(checked_name("read", path))
    if decimal not in (None, ".", ","):
        raise InvalidArgumentError(f"decimal is {decimal!r}: give '.' or ','")
    dialect = detect(file, separator=separator, decimal=decimal)
    chosen = choose_columns(
        dialect.header, chosen=columns or {}, units=units or {}, dated=dialect.dated, where=str(file)
    )
    rows = _read_rows(file, dialect, chosen)
    rows.check(str(file))
    warnings = [*rows.said, *rows.warnings()]
    if rows.dates is not None:
        dates = DateReader(rows.dates, timezone=timezone, date_order=date_order, where=str(file))
        absolute_ns, is_wall = dates.wall_ns()
    else:
        scale = chosen[0].scale or 1.0
        raw = np.asarray(rows.values[0], np.float64)
        absolute_ns, is_wall = np.round((raw - raw[0]) * scale).astype(np.int64), False
        if raw[0] * scale > 1e18:  # since 1970: after 2001
            absolute_ns, is_wall = absolute_ns + round(float(raw[0]) * scale), True
    kept = _rising(absolute_ns, rows, str(file), warnings)
    start_ns = int(absolute_ns[0])
    time_ns = (absolute_ns - start_ns)[kept]
    series = {
        column.kind: np.asarray(values, np.float64)[kept] * (column.scale or 1.0)
        for column, values in zip(chosen[1:], rows.values[1:], strict=True)
    }
    warnings += gap_warnings(time_ns)
    return Recording(time_ns, series, str(file), start_ns if is_wall else None, bounded(warnings))


@dataclass
class _Rows:
    """What was read, by column; a value that is missing is NaN, a row without a time is left out."""

    values: list[Any]
    dates: list[str] | None
    lines: array[int] = field(default_factory=lambda: array("q"))
    n_rows: int = 0
    n_bad: int = 0
    bad: dict[str, list[Any]] = field(default_factory=dict)  # what -> [count, first line, first text]
    said: list[str] = field(default_factory=list)  # warnings above the header, as `write_csv` puts them

    def note(self, what: str, line: int, text: str) -> None:
        entry = self.bad.setdefault(what, [0, line, text[:40]])
        entry[0] += 1

    def check(self, where: str) -> None:
        """Raises InvalidArgumentError where too little could be read."""
        if self.n_bad > MAX_BAD_RATIO * max(self.n_rows, 1):
            reasons = "; ".join(self.warnings())
            raise InvalidArgumentError(
                f"{where}: {self.n_bad} of {self.n_rows} rows cannot be read: {reasons}; is the separator, the decimal "
                "sign or a column another one?"
            )
        if len(self.lines) < 2:
            raise InvalidArgumentError(f"{where}: {len(self.lines)} rows of numbers, and two are needed at least")

    def warnings(self) -> list[str]:
        """Returns one line for each sort of cell that could not be read."""
        return [f"{n} rows {what}, the first in line {line}: {text!r}" for what, (n, line, text) in self.bad.items()]


def _read_rows(path: Path, dialect: Dialect, columns: Sequence[Column]) -> _Rows:
    dated = columns[0].scale is None
    rows = _Rows([array("d") for _ in columns], [] if dated else None)
    try:
        with path.open(encoding=dialect.encoding, errors="replace", newline="") as file:
            above = [file.readline() for _ in range(dialect.header_line)]
            rows.said = [line.removeprefix(WARNING_MARK).strip() for line in above if line.startswith(WARNING_MARK)]
            for number, cells in enumerate(csv.reader(file, delimiter=dialect.separator), dialect.header_line + 1):
                if not cells or not any(cell.strip() for cell in cells):
                    continue
                rows.n_rows += 1
                if rows.n_rows > MAX_ROWS:
                    raise InvalidArgumentError(f"{path} has more than {MAX_ROWS} rows: split it")
                _take(rows, cells, columns, dialect, number)
    except OSError as error:
        raise StorageError.from_os_error("read", str(path), error) from error
    except csv.Error as error:
        raise InvalidArgumentError(f"{path}: {error}: is it a meter's CSV file?") from error
    return rows


def _take(rows: _Rows, cells: list[str], columns: Sequence[Column], dialect: Dialect, line: int) -> None:
    if len(cells) != len(dialect.header):
        rows.n_bad += 1
        rows.note(f"have not {len(dialect.header)} cells as the header has", line, dialect.separator.join(cells))
        return
    time = cells[columns[0].index].strip()
    if (rows.dates is None and _number(time, dialect.decimal) is None) or not time:
        rows.n_bad += 1
        rows.note(f"have no time in {columns[0].name!r}", line, time)
        return
    found = [_number(cells[column.index].strip(), dialect.decimal) for column in columns[1:]]
    for column, value in zip(columns[1:], found, strict=True):
        if value is None:
            rows.note(f"have no number in {column.name!r}", line, cells[column.index])
    if any(value is None for value in found):
        rows.n_bad += 1
    if rows.dates is not None:
        rows.dates.append(time)
    else:
        rows.values[0].append(_number(time, dialect.decimal))
    for into, value in zip(rows.values[1:], found, strict=True):
        into.append(np.nan if value is None else value)
    rows.lines.append(line)


def _number(text: str, decimal: str) -> float | None:
    """Returns the number in a cell; None for anything else, infinities and SCPI's "no value" among it."""
    if decimal == ",":
        text = text.replace(".", "").replace(",", ".") if "," in text else text
    elif "," in text:
        text = text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) and abs(value) < _NO_VALUE and "_" not in text else None


def _rising(time_ns: NDArray[np.int64], rows: _Rows, where: str, warnings: list[str]) -> NDArray[Any]:
    """Returns which readings to keep: of equal times the first. Raises InvalidArgumentError where time goes back."""
    steps = np.diff(time_ns)
    back = np.flatnonzero(steps < 0)
    if len(back):
        at = int(back[0])
        raise InvalidArgumentError(
            f"{where}: time goes back by {-steps[at] / 1e9:.6g} s in line {rows.lines[at + 1]}: the file is two "
            "recordings, or the meter's clock was set; cut it there"
        )
    kept = np.concatenate([[True], steps > 0])
    n_equal = len(kept) - int(kept.sum())
    if n_equal:
        line = rows.lines[int(np.flatnonzero(~kept)[0])]
        warnings.append(f"{n_equal} rows have the time of the row before, the first in line {line}, and were left out")
    for name in rows.values[1:]:
        if not np.isfinite(np.asarray(name)).any():
            raise InvalidArgumentError(f"{where}: a column has no number at all")
    return kept
