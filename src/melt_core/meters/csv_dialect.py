"""How a meter's CSV file is written: encoding, separator, decimal sign, and which line is the header."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.trace.storage import check_regular

#: Lines that are looked at to find out, and of those the most before the header.
_SAMPLE_LINES: Final = 200
_MAX_PREAMBLE: Final = 60
_SAMPLE_BYTES: Final = 1 << 18
_SEPARATORS: Final = (";", "\t", ",", "|")
_PLAIN: Final = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_COMMA: Final = re.compile(r"^[+-]?\d+,\d+([eE][+-]?\d+)?$")
_THOUSANDS: Final = re.compile(r"^[+-]?[1-9]\d{0,2}(,\d{3})+$")
_DATE: Final = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}:\d{2}(:\d{2})?")


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        header_line: Number of the header's line, from 1.
        header: Its columns.
        dated: For each column, whether the first row holds a date there and no number.
    """

    encoding: str
    separator: str
    decimal: str
    header_line: int
    header: tuple[str, ...]
    dated: tuple[bool, ...]


def detect(path: Path, *, separator: str | None = None, decimal: str | None = None) -> Dialect:
    """Looks at the beginning of a file.

    Raises:
        StorageError: It cannot be read.
        InvalidArgumentError: It is no table of numbers with a header, or can be read in two ways.
    """
    if separator is not None and len(separator) != 1:
        raise InvalidArgumentError(f"separator is {separator!r}: give one character")
    lines, encoding = _beginning(path)
    for choice in (separator,) if separator else _SEPARATORS:
        try:
            found = _header_of(lines, choice)
        except csv.Error as error:  # a cell longer than the csv module takes, as where a quote is never closed
            raise InvalidArgumentError(f"{path}: {error}: is it a meter's CSV file?") from error
        if found is None:
            continue
        at, rows = found
        sign = decimal or _decimal(rows[1:], choice, path)
        return Dialect(encoding, choice, sign, at + 1, tuple(rows[0]), tuple(map(is_date, rows[1])))
    raise InvalidArgumentError(
        f"{path}: no header with rows of numbers below it in the first {len(lines)} lines, separated "
        "by ; , | or tab: is it a CSV file? (--separator says so if it is another)"
    )


def is_number(text: str) -> bool:
    """Returns whether a cell is a number, with a point or a comma as its decimal sign."""
    text = text.strip()
    return bool(_PLAIN.match(text) or _COMMA.match(text) or _THOUSANDS.match(text))


def is_date(text: str) -> bool:
    """Returns whether a cell is a date or a time of day."""
    return not is_number(text) and bool(_DATE.search(text))


def _beginning(path: Path) -> tuple[list[str], str]:
    check_regular(path, "the recording")
    try:
        with path.open("rb") as file:
            raw = file.read(_SAMPLE_BYTES)
    except OSError as error:
        raise StorageError.from_os_error("read", str(path), error) from error
    if not raw.strip():
        raise InvalidArgumentError(f"{path} is empty")
    encoding = "utf-8-sig"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in raw[:4096]:
        raise InvalidArgumentError(f"{path} is a binary file: export it as CSV from the meter's own program")
    else:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(raw)
        except UnicodeDecodeError:
            encoding = "cp1252"  # what meters' programs on Windows write
    text = raw.decode(encoding, errors="replace")
    return text.splitlines()[:_SAMPLE_LINES], encoding


def _header_of(lines: list[str], separator: str) -> tuple[int, list[list[str]]] | None:
    """Returns where the header is, and the rows from it on; None if this separator makes no table."""
    rows = list(csv.reader(lines, delimiter=separator))
    for at, row in enumerate(rows[:_MAX_PREAMBLE]):
        below = rows[at + 1 : at + 4]
        if len(row) < 2 or not below or any(is_number(cell) or is_date(cell) for cell in row if cell.strip()):
            continue
        same = all(len(other) == len(row) for other in below)
        filled = [cell for cell in below[0] if cell.strip()] if same else []
        if same and sum(map(is_number, filled)) >= 1 and all(is_number(c) or is_date(c) for c in filled[:2]):
            return at, [[cell.strip() for cell in one] for one in rows[at:]]
    return None


def _decimal(rows: list[list[str]], separator: str, path: Path) -> str:
    """Returns the decimal sign of the sample's numbers."""
    cells = [cell for row in rows for cell in row]
    with_comma = [cell for cell in cells if _COMMA.match(cell) or _THOUSANDS.match(cell)]
    if separator == "," or not with_comma:
        return "."
    if any("." in cell for cell in cells if _PLAIN.match(cell)):
        raise InvalidArgumentError(f"{path}: numbers with a comma ({with_comma[0]!r}) beside numbers with a point: "
                                   "say which is the decimal sign (--decimal , or --decimal .)")  # fmt: skip
    if all(_THOUSANDS.match(cell) for cell in with_comma):
        raise InvalidArgumentError(
            f"{path}: {with_comma[0]!r} can be a decimal or a thousand: say which (--decimal , or --decimal .)"
        )
    return ","
