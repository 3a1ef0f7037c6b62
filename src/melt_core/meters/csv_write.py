"""Writes a recording as the CSV file that `read_csv` reads, and any spreadsheet."""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from melt_core.meters.recording import UNITS, Recording
from melt_core.trace.storage import written_atomically

#: A line above the header that begins so is a warning of the recording.
WARNING_MARK: Final = "# warning: "
_ROWS_AT_ONCE: Final = 10_000
_NS_PER_S: Final = 1_000_000_000  # whole: these times are written to the nanosecond


def write_csv(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Writes a recording; its warnings stand above the header.

    Times are seconds since 1970 UTC where the recording knows when it began, else since its beginning. A value that is
    missing is an empty cell.

    Raises:
        StorageError: The file cannot be written.
    """
    kinds = list(recording.series)
    start_ns = recording.start_wall_ns or 0
    head = [f"# {recording.source}", *(WARNING_MARK + " ".join(text.split()) for text in recording.warnings)]
    head.append(",".join(["time_s", *(f"{kind}_{UNITS[kind].lower()}" for kind in kinds)]))
    columns = [recording.series[kind] for kind in kinds]
    with written_atomically(path) as file:
        file.write("".join(f"{line}\n" for line in head).encode())
        for first in range(0, len(recording.time_ns), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            times = (recording.time_ns[part] + start_ns).tolist()
            values = np.stack([column[part] for column in columns], axis=1).tolist()
            rows = zip(times, values, strict=True)
            file.write("".join(_row(time, row) for time, row in rows).encode())


def _row(time_ns: int, values: list[float]) -> str:
    seconds, rest = divmod(time_ns, _NS_PER_S)
    cells = ["" if np.isnan(value) else repr(value) for value in values]
    return ",".join([f"{seconds}.{rest:09d}", *cells]) + "\n"
