"""The ops table as CSV: one row per op and thread, units in the column names, nothing where a value is missing."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, BinaryIO

from melt_core.report._rows import op_tables

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace


def write(trace: Trace, file: BinaryIO, *, run: int | None = None) -> None:
    """Writes the ops of `trace`, or of one run, to `file`."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(trace.ops.columns)
        for table in op_tables(trace, run=run):
            writer.writerows(table)
        text.flush()
    finally:
        text.detach()
