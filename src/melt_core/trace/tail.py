"""What a trace that is still being written holds so far: only what is new is read each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import CHANNEL, CHUNK_HEADER, CHUNK_MAGIC, FILE_HEADER, RUN, SAMPLE, ChunkKind

_MAGIC: Final = int.from_bytes(CHUNK_MAGIC, "little")
_PADDING: Final = 8


def ns_run(runs: NDArray[Any]) -> int:
    """Returns from the first run's begin to the last one's end, in ns of the trace's clock; 0 for no runs.

    Args:
        runs: [n_runs] records of the kind ``RUNS``.
    """
    if not len(runs):
        return 0
    return int((runs["start_ns"] + runs["duration_ns"]).max() - runs["start_ns"].min())


class TraceTail:
    """Follows a growing trace; chunks that are not whole yet are read the next time."""

    def __init__(self, path: str | Path) -> None:
        """Begins at the start of the file, which may not be there yet."""
        self._path = Path(path)
        self._offset = FILE_HEADER.itemsize
        self._names: dict[int, tuple[str, str]] = {}
        self._latest: dict[tuple[str, str], float] = {}
        self._runs = np.zeros(0, RUN)  # the first and the last

    def latest(self) -> dict[tuple[str, str], float]:
        """Returns the last reading of each channel so far, by (site, kind)."""
        self._read()
        return dict(self._latest)

    def ns_run(self) -> int:
        """Returns from the first run's begin to the last one's end so far, as `ns_run` does of a whole trace."""
        self._read()
        return ns_run(self._runs)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        at = 0
        while at + CHUNK_HEADER.itemsize <= len(data):
            header = np.frombuffer(data, CHUNK_HEADER, 1, at)[0]
            if header["magic"] != _MAGIC:
                break
            start = at + CHUNK_HEADER.itemsize
            size = int(header["payload_bytes"])
            end = start + size + -size % _PADDING
            if end > len(data):
                break
            self._keep(int(header["kind"]), int(header["record_bytes"]), data[start : start + size])
            at = end
        self._offset += at

    def _keep(self, kind: int, record_bytes: int, payload: bytes) -> None:
        if kind == ChunkKind.CHANNELS and record_bytes == CHANNEL.itemsize:
            for row in np.frombuffer(payload, CHANNEL):
                self._names[int(row["channel"])] = (row["site"].decode(), row["kind"].decode())
        if kind == ChunkKind.RUNS and record_bytes == RUN.itemsize:
            runs = np.concatenate([self._runs, np.frombuffer(payload, RUN)])
            self._runs = runs[[0, -1]] if len(runs) else runs
        if kind == ChunkKind.SAMPLES and record_bytes == SAMPLE.itemsize:
            rows = np.frombuffer(payload, SAMPLE)
            for number, (site, what) in self._names.items():
                values = rows["value"][rows["channel"] == number]
                values = values[np.isfinite(values)]
                if len(values):
                    self._latest[site, what] = float(values[-1])
