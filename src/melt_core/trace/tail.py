"""What a trace that is still being written holds so far: only what is new is read each time.

The process that is measured reads it: payloads that are not kept, op records above all, are seeked over. They are
hundreds of megabytes, and reading them would put them into its memory and push others out of its caches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import CHANNEL, CHUNK_HEADER, CHUNK_MAGIC, FILE_HEADER, RUN, SAMPLE, ChunkKind

_MAGIC: Final = int.from_bytes(CHUNK_MAGIC, "little")
_PADDING: Final = 8
#: What is read, by kind, and the size of its records; records of another size are of another version.
_KEPT: Final[dict[int, int]] = {
    ChunkKind.CHANNELS: CHANNEL.itemsize,
    ChunkKind.RUNS: RUN.itemsize,
    ChunkKind.SAMPLES: SAMPLE.itemsize,
}


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
                self._offset = self._take(file)
        except FileNotFoundError:
            return

    def _take(self, file: BinaryIO) -> int:
        """Reads the whole chunks from the offset on; returns where the first one that is not whole begins."""
        at, written = self._offset, os.fstat(file.fileno()).st_size
        while at + CHUNK_HEADER.itemsize <= written:
            file.seek(at)
            head = file.read(CHUNK_HEADER.itemsize)
            if len(head) < CHUNK_HEADER.itemsize:  # cut since its size was asked for
                break
            header = np.frombuffer(head, CHUNK_HEADER)[0]
            if header["magic"] != _MAGIC:
                break
            size = int(header["payload_bytes"])
            end = at + CHUNK_HEADER.itemsize + size + -size % _PADDING
            if end > written:
                break
            kind = int(header["kind"])
            if int(header["record_bytes"]) == _KEPT.get(kind):
                payload = file.read(size)
                if len(payload) < size:
                    break
                self._keep(kind, payload)
            at = end
        return at

    def _keep(self, kind: int, payload: bytes) -> None:
        if kind == ChunkKind.CHANNELS:
            for row in np.frombuffer(payload, CHANNEL):
                self._names[int(row["channel"])] = (row["site"].decode(), row["kind"].decode())
        if kind == ChunkKind.RUNS:
            runs = np.concatenate([self._runs, np.frombuffer(payload, RUN)])
            self._runs = runs[[0, -1]] if len(runs) else runs
        if kind == ChunkKind.SAMPLES:
            rows = np.frombuffer(payload, SAMPLE)
            for number, (site, what) in self._names.items():
                values = rows["value"][rows["channel"] == number]
                values = values[np.isfinite(values)]
                if len(values):
                    self._latest[site, what] = float(values[-1])
