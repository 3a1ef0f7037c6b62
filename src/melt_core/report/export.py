"""`export`: a trace in the format of another tool. Files appear whole or not at all, and are written as a stream."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from melt_core.errors import InvalidArgumentError
from melt_core.report import chrome, csv_, parquet, speedscope
from melt_core.trace.storage import written_atomically

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_WRITERS = {
    "chrome": chrome.write,
    "speedscope": speedscope.write,
    "csv": csv_.write,
    "parquet": parquet.write,
}
FORMATS = tuple(_WRITERS)


def export(trace: Trace, path: str | os.PathLike[str], *, format: str, run: int | None = None) -> None:
    """Writes `trace` to `path`.

    Args:
        trace: The trace.
        path: The file to write.
        format: One of `FORMATS`.
        run: Only this run; all by default.

    Raises:
        InvalidArgumentError: if there is no such format or run, or `path` is the trace itself.
        StorageError: if the file cannot be written.
        MissingExtraError: if a package for this format is not installed.
    """
    if format not in FORMATS:
        raise InvalidArgumentError(f"cannot export as {format!r}: choose one of {', '.join(FORMATS)}")
    if run is not None and not 0 <= run < len(trace.runs):
        raise InvalidArgumentError(f"no run {run}: the trace has runs 0 to {len(trace.runs) - 1}")
    with written_atomically(path, inputs=[trace.path]) as file:
        _WRITERS[format](trace, file, run=run)
