"""Columns of a table: where values come from, resolved only when they are read.

A column is read by rows (a slice or an array of row numbers), so that printing ten rows of ten million costs ten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = slice | Array


class Column(Protocol):
    """Values of one column."""

    @property
    def missing(self) -> Any:
        """The stored value that means "none"; None if every value counts."""
        ...

    def read(self, rows: Rows) -> Array:
        """Returns the values of the given rows."""
        ...


@dataclass(frozen=True)
class ArrayColumn:
    """Values that lie in memory."""

    values: Array
    missing: Any = None

    def read(self, rows: Rows) -> Array:
        """Returns the values of the given rows: a view if rows are a slice."""
        picked: Array = self.values[rows]
        return picked


@dataclass(frozen=True)
class FieldColumn:
    """One field of records that lie in several chunks."""

    parts: Sequence[Array]
    name: str
    missing: Any = None

    def read(self, rows: Rows) -> Array:
        """Returns the values of the given rows: a view if they lie in one chunk."""
        if len(self.parts) == 1:
            picked: Array = self.parts[0][self.name][rows]
            return picked
        if isinstance(rows, slice) and rows.step in (None, 1):
            return self._read_range(rows)
        joined: Array = np.concatenate([part[self.name] for part in self.parts])[rows]
        return joined

    def _read_range(self, rows: slice) -> Array:
        n_rows = sum(len(part) for part in self.parts)
        start, stop, _ = rows.indices(n_rows)
        pieces, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, len(part))
            if low < high:
                pieces.append(part[self.name][low:high])
            first += len(part)
        if len(pieces) == 1:
            return pieces[0]
        joined: Array = np.concatenate(pieces) if pieces else self.parts[0][self.name][:0]
        return joined


@dataclass(frozen=True)
class LookupColumn:
    """``values[code]`` for each code of another column. Codes beyond the values give the last value."""

    codes: Column
    values: Array
    missing: Any = None

    def read(self, rows: Rows) -> Array:
        """Returns the looked-up values of the given rows."""
        picked: Array = self.values[self.read_codes(rows)]
        return picked

    def read_codes(self, rows: Rows) -> Array:
        """Returns positions in ``values`` for the given rows."""
        clipped: Array = np.minimum(self.codes.read(rows), len(self.values) - 1)
        return clipped


@dataclass(frozen=True)
class DerivedColumn:
    """Values worked out of another column."""

    source: Column
    derive: Callable[[Array], Array]
    missing: Any = None

    def read(self, rows: Rows) -> Array:
        """Returns the derived values of the given rows."""
        return self.derive(self.source.read(rows))


@dataclass(frozen=True)
class PickedColumn:
    """Some rows of another column."""

    source: Column
    rows: Array

    @property
    def missing(self) -> Any:
        """The source's missing value."""
        return self.source.missing

    def read(self, rows: Rows) -> Array:
        """Returns the values of the given rows of these rows."""
        return self.source.read(self.rows[rows])


@dataclass(frozen=True)
class RangeColumn:
    """Consecutive rows of another column, from ``start`` on."""

    source: Column
    start: int
    n_rows: int

    @property
    def missing(self) -> Any:
        """The source's missing value."""
        return self.source.missing

    def read(self, rows: Rows) -> Array:
        """Returns the values of the given rows of this range."""
        if not isinstance(rows, slice):
            return self.source.read(rows + self.start)
        start, stop, step = rows.indices(self.n_rows)
        if step < 0:
            return self.source.read(np.arange(start, stop, step) + self.start)
        return self.source.read(slice(self.start + start, self.start + max(stop, start), step))


def is_missing(column: Column, values: Array) -> NDArray[np.bool_]:
    """Returns which of the column's values mean "none": its missing value, and NaN."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if column.missing is None or values.ndim > 1:
        return np.zeros(len(values), np.bool_)
    missing: NDArray[np.bool_] = np.asarray(values == column.missing, np.bool_)
    return missing
