"""The tail of a trace that grows: what is kept is that of the chunks so far, and only that is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.trace_builder import chunk, file_header, rows_of
from melt_core.trace.format import CHANNEL, OP, RUN, SAMPLE, ChunkKind
from melt_core.trace.tail import TraceTail

OPS = chunk(ChunkKind.OPS, bytes(OP.itemsize * 100_000), OP.itemsize, 100_000)


def records(kind: ChunkKind, *rows: dict[str, Any]) -> bytes:
    made = rows_of(kind, list(rows))
    return chunk(kind, made.tobytes(), made.dtype.itemsize, len(made))


CHANNELS = records(ChunkKind.CHANNELS, {"channel": 3, "site": b"soc", "kind": b"temperature"})


def sample(value: float, channel: int = 3) -> bytes:
    return records(ChunkKind.SAMPLES, {"channel": channel, "value": value})


def run(start_ns: int) -> bytes:
    return records(ChunkKind.RUNS, {"start_ns": start_ns, "duration_ns": 10})


class CountedFile(io.FileIO):
    """A file that counts the bytes that come from the system."""

    n_read = 0

    def readinto(self, buffer: Any) -> int | None:
        n_bytes = super().readinto(buffer)
        CountedFile.n_read += n_bytes or 0
        return n_bytes

    def readall(self) -> bytes:
        data = super().readall()
        CountedFile.n_read += len(data)
        return data

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        CountedFile.n_read += len(data)
        return data


def test_payloads_that_are_not_kept_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN some megabytes of op records around a few readings
    path, grown = tmp_path / "t.melt", tmp_path / "grown.melt"
    path.write_bytes(file_header() + CHANNELS + run(0) + sample(40.0))
    grown.write_bytes(path.read_bytes() + OPS * 3 + sample(41.5) + OPS + run(90))
    monkeypatch.setattr(CountedFile, "n_read", 0)
    monkeypatch.setattr(Path, "open", lambda self, mode: io.BufferedReader(CountedFile(self), 8192))
    tail = TraceTail(path)
    assert tail.latest() == {("soc", "temperature"): 40.0}
    grown.replace(path)
    # THEN the readings are found and the op records stay on the disk
    assert tail.latest() == {("soc", "temperature"): 41.5}
    assert tail.ns_run() == 100
    assert CountedFile.n_read < 100_000 < len(OPS)
    # and what was taken once is not read again
    n_read = CountedFile.n_read
    tail.latest()
    assert CountedFile.n_read == n_read


def test_a_chunk_counts_once_it_is_whole_with_its_padding(tmp_path: Path) -> None:
    # GIVEN a trace that arrives byte by byte, with a payload that needs padding and kinds that are not kept
    odd = chunk(ChunkKind.METADATA, b'{"a": 1}  ')
    parts = [file_header(), CHANNELS, sample(1.0), odd, sample(2.0), chunk(4711, b"?"), run(5), sample(3.0), run(70)]
    data, ends = b"".join(parts), np.cumsum([len(part) for part in parts]).tolist()
    path = tmp_path / "t.melt"
    tail = TraceTail(path)
    for size in range(0, len(data) + 1):
        path.write_bytes(data[:size])
        value = (size >= ends[2]) + (size >= ends[4]) + (size >= ends[7])
        assert tail.latest() == ({("soc", "temperature"): float(value)} if value else {}), size
        assert tail.ns_run() == (75 if size >= ends[8] else 10 if size >= ends[6] else 0), size


@pytest.mark.parametrize("after", [chunk(ChunkKind.OPS, bytes(40), 40, 1), sample(2.0)])
def test_it_stops_at_what_is_no_chunk(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "t.melt"
    path.write_bytes(file_header() + CHANNELS + sample(1.0) + b"X" + after[1:] + sample(3.0))
    tail = TraceTail(path)
    for _ in range(2):
        assert tail.latest() == {("soc", "temperature"): 1.0}


def test_a_length_that_cannot_be_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "t.melt"
    beyond = bytearray(OPS[:32])
    beyond[16:24] = b"\xff" * 8
    path.write_bytes(file_header() + CHANNELS + sample(1.0) + beyond + sample(3.0))
    assert TraceTail(path).latest() == {("soc", "temperature"): 1.0}


def test_records_of_another_size_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.melt"
    longer = b"".join(
        chunk(kind, bytes([1]) * (size + 8), size + 8, 1)
        for kind, size in (
            (ChunkKind.CHANNELS, CHANNEL.itemsize),
            (ChunkKind.RUNS, RUN.itemsize),
            (ChunkKind.SAMPLES, SAMPLE.itemsize),
        )
    )
    path.write_bytes(file_header() + CHANNELS + longer + sample(1.0) + sample(float("nan")) + sample(9.0, channel=4))
    tail = TraceTail(path)
    assert tail.latest() == {("soc", "temperature"): 1.0}
    assert tail.ns_run() == 0
