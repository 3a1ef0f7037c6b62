"""The ops table as Parquet, for pandas, DuckDB or Polars; needs pyarrow (extra `store`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from melt_core.errors import MissingExtraError
from melt_core.report._rows import op_tables

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace


def write(trace: Trace, file: BinaryIO, *, run: int | None = None) -> None:
    """Writes the ops of `trace`, or of one run, to `file`. Raises: MissingExtraError without pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="store") from error
    schema = trace.ops[:0].to_arrow().schema
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in op_tables(trace, run=run):
            writer.write_table(table.to_arrow().cast(schema))
