"""The latest readings in a trace that is still being written: only what is new is read each time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from melt_core.trace.format import CHANNEL, CHUNK_HEADER, CHUNK_MAGIC, FILE_HEADER, SAMPLE, ChunkKind

_MAGIC: Final = int.from_bytes(CHUNK_MAGIC, "little")
_PADDING: Final = 8


class TraceTail:
    """Follows a growing trace; chunks that are not whole yet are read the next time."""

    def __init__(self, path: str | Path) -> None:
        """Begins at the start of the file, which may not be there yet."""
        self._path = Path(path)
        self._offset = FILE_HEADER.itemsize
        self._names: dict[int, tuple[str, str]] = {}
        self._latest: dict[tuple[str, str], float] = {}

    def latest(self) -> dict[tuple[str, str], float]:
        """Returns the last reading of each channel so far, by (site, kind)."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return {}
        self._take(data)
        return dict(self._latest)

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
        if kind == ChunkKind.SAMPLES and record_bytes == SAMPLE.itemsize:
            rows = np.frombuffer(payload, SAMPLE)
            for number, (site, what) in self._names.items():
                values = rows["value"][rows["channel"] == number]
                values = values[np.isfinite(values)]
                if len(values):
                    self._latest[site, what] = float(values[-1])
