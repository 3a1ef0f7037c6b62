"""`Table`: named columns of equal length, read from the file only when looked at.

    ops = trace.ops
    ops["compute_ns"].sum()          # a NumPy array; no copy where the file holds it in one piece
    ops[ops["op_type"] == "MUL_MAT"]  # rows, again as a table
    print(ops.head(10))              # fits into 80 columns

A missing value is NaN in a column of numbers and ``missing[name]`` elsewhere; rows, dicts, pandas and Arrow get None.
"""

from __future__ import annotations

import importlib
from collections import namedtuple
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError, MissingExtraError
from melt_core.trace.columns import (
    ArrayColumn,
    Column,
    LookupColumn,
    PickedColumn,
    RangeColumn,
    is_missing,
)

if TYPE_CHECKING:
    import pyarrow

_BLOCK_ROWS = 1 << 16


class Table:
    """Columns of equal length with names. Immutable; call from any thread."""

    def __init__(self, columns: Mapping[str, Column], n_rows: int, records: NDArray[Any] | None = None) -> None:
        """Holds `columns` of `n_rows` each, and the stored records behind them if those are one array."""
        self._columns = dict(columns)
        self._n_rows = n_rows
        self._records = records

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], missing: Mapping[str, Any] | None = None) -> Table:
        """Returns a table of arrays. `missing` names, per column, the value that stands for "none"."""
        missing = missing or {}
        columns = {name: ArrayColumn(values, missing.get(name)) for name, values in arrays.items()}
        return cls(columns, len(next(iter(arrays.values()))) if arrays else 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self._columns)

    @property
    def missing(self) -> dict[str, Any]:
        """For each column with such a value, the value that means "none"."""
        return {name: column.missing for name, column in self._columns.items() if column.missing is not None}

    @property
    def records(self) -> NDArray[Any] | None:
        """The stored records as one mapped array, not copied; None where the file holds several pieces."""
        return self._records

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._n_rows

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: slice | NDArray[Any]) -> Table: ...
    @overload
    def __getitem__(self, key: int) -> Any: ...
    def __getitem__(self, key: str | int | slice | NDArray[Any]) -> Any:
        """Returns a column by name, one row by number, or rows (slice, mask, row numbers) as a table.

        Raises:
            InvalidArgumentError: if there is no such column.
            IndexError: if there is no such row.
        """
        if isinstance(key, str):
            return self._column(key).read(slice(None))
        if isinstance(key, slice):
            return self._slice(key)
        if isinstance(key, (int, np.integer)):
            number = int(key) + (self._n_rows if key < 0 else 0)
            if not 0 <= number < self._n_rows:
                raise IndexError(f"row {int(key)} of a table of {self._n_rows} rows")
            return next(iter(self._slice(slice(number, number + 1))))
        return self._pick(np.asarray(key))

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            raise InvalidArgumentError(f"no column {name!r}: there are {', '.join(self._columns)}")
        return self._columns[name]

    def _slice(self, rows: slice) -> Table:
        start, stop, step = rows.indices(self._n_rows)
        if step != 1:
            return self._pick(np.arange(start, stop, step))
        n_rows = max(stop - start, 0)
        records = None if self._records is None else self._records[start:stop]
        columns = {name: RangeColumn(column, start, n_rows) for name, column in self._columns.items()}
        return Table(columns, n_rows, records)

    def _pick(self, rows: NDArray[Any]) -> Table:
        if rows.dtype == np.bool_ and len(rows) != self._n_rows:
            raise InvalidArgumentError(f"a mask of {len(rows)} values for a table of {self._n_rows} rows")
        numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.intp)
        if len(numbers) and (numbers.min() < -self._n_rows or numbers.max() >= self._n_rows):
            raise IndexError(f"row numbers beyond a table of {self._n_rows} rows")
        numbers = np.where(numbers < 0, numbers + self._n_rows, numbers)
        columns = {name: PickedColumn(column, numbers) for name, column in self._columns.items()}
        return Table(columns, len(numbers))

    def head(self, n: int = 5) -> Table:
        """Returns the first `n` rows."""
        return self[: max(n, 0)]

    def __iter__(self) -> Iterator[Any]:
        """Yields rows as named tuples of plain Python values, None where a value is missing."""
        row_type: Any = namedtuple("Row", self.columns)  # type: ignore[misc]
        for values in self._plain_rows():
            yield row_type._make(values)

    def _plain_rows(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, self._n_rows, _BLOCK_ROWS):
            rows = slice(start, min(start + _BLOCK_ROWS, self._n_rows))
            yield from zip(*(_plain(column, rows) for column in self._columns.values()), strict=True)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns the rows as dicts of plain Python values, None where a value is missing: ready for JSON."""
        return [dict(zip(self._columns, values, strict=True)) for values in self._plain_rows()]

    def to_pandas(self) -> Any:
        """Returns a pandas DataFrame.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        try:
            pandas: Any = importlib.import_module("pandas")  # typed only where its stubs are installed
        except ImportError as error:
            raise MissingExtraError("pandas", extra="store") from error
        data: dict[str, Any] = {}
        for name, column in self._columns.items():
            values = column.read(slice(None))
            absent = is_missing(column, values)
            if isinstance(column, LookupColumn) and values.dtype.kind == "O":
                data[name] = pandas.Series(values, dtype="category")
            elif values.ndim > 1:
                data[name] = list(values)
            elif values.dtype.kind in "iu" and absent.any():
                data[name] = pandas.arrays.IntegerArray(values.astype(np.int64), absent)
            else:
                data[name] = values
            if values.dtype.kind == "O" and absent.any():
                data[name] = pandas.Series(data[name]).mask(absent)
        return pandas.DataFrame(data)

    def to_arrow(self) -> pyarrow.Table:
        """Returns an Arrow table; text that repeats is dictionary-encoded.

        Raises:
            MissingExtraError: if pyarrow is not installed.
        """
        try:
            import pyarrow
        except ImportError as error:
            raise MissingExtraError("pyarrow", extra="store") from error
        data: dict[str, Any] = {}
        for name, column in self._columns.items():
            data[name] = _to_arrow(pyarrow, column)
        return pyarrow.table(data)

    def __repr__(self) -> str:
        """Returns the first rows, aligned, in at most 80 columns."""
        from melt_core.report.text import format_table

        return format_table(self)


def _plain(column: Column, rows: slice) -> list[Any]:
    values = column.read(rows)
    absent = is_missing(column, values)
    plain: list[Any] = values.tolist()
    for number in np.flatnonzero(absent).tolist():
        plain[number] = None
    return [item.decode("utf-8", "replace") for item in plain] if values.dtype.kind == "S" else plain


def _to_arrow(pyarrow: Any, column: Column) -> Any:
    base = column.source if isinstance(column, RangeColumn) else column
    if isinstance(base, LookupColumn) and base.values.dtype.kind == "O":
        rows = slice(None) if base is column else slice(column.start, column.start + column.n_rows)  # type: ignore[attr-defined]
        codes = base.read_codes(rows).astype(np.int32)
        absent = is_missing(base, base.values)[codes]
        indices = pyarrow.array(codes, mask=absent)
        return pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(base.values, pyarrow.string()))
    values = column.read(slice(None))
    if values.ndim > 1:
        flat = np.ascontiguousarray(values).reshape(-1)
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), values.shape[1])
    if values.dtype.kind == "O":
        return pyarrow.array(_plain(column, slice(None)))
    mask = None if values.dtype.kind == "f" else is_missing(column, values)
    return pyarrow.array(np.ascontiguousarray(values), mask=mask)
