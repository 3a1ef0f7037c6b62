"""Reading a trace that was made to be slow to read: the work stays within a multiple of the file, and it is counted."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakes.trace_builder import TraceBuilder, chunk, file_header, rows_of
from melt_core.trace import Trace, chunks
from melt_core.trace.format import SAMPLE, ChunkKind

PHASES = chunk(ChunkKind.PHASES, bytes(24 * 3), 24, 3)
END = chunk(ChunkKind.END, b"")


def claim(n_bytes: int) -> bytes:
    """Returns a whole header of a chunk whose payload has another checksum, and 8 bytes of that payload."""
    head = struct.pack("<4sIIIQI", b"CHNK", 4711, 0, 0, n_bytes, 0x12345678)
    return head + struct.pack("<I", zlib.crc32(head)) + b"\xaa" * 8


def overlapping(n_bytes: int) -> bytes:
    """Returns claims of which each spans half of what is behind it, and ends where no header is."""
    step = len(claim(0))
    n_claims = n_bytes // step
    return b"".join(claim(max(n_claims - n, 2) // 2 * step - 8) for n in range(n_claims))


@pytest.fixture
def checksummed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gives how many bytes each checksum of the scan went over."""
    counted: list[int] = []

    def crc32(data: Any) -> int:
        counted.append(len(data))
        return zlib.crc32(data)

    monkeypatch.setattr(chunks, "zlib", SimpleNamespace(crc32=crc32))
    return counted


@pytest.mark.parametrize("n_bytes", [2_000, 64 << 10, 256 << 10])
def test_overlapping_claims_are_not_checked_one_by_one(n_bytes: int, checksummed: list[int]) -> None:
    # GIVEN whole chunks, claims that overlap, and more behind them
    front = file_header() + PHASES * 2
    data = front + overlapping(n_bytes) + PHASES + END
    trace = Trace.from_bytes(data)
    # THEN each byte is checked a limited number of times: 16 in the search, once for chunks that are kept, and headers
    assert sum(checksummed) <= 18 * len(data) + 4096
    # and what was whole before them is there
    assert len(trace.phases) >= 6
    assert trace.damage


@pytest.mark.parametrize("n_gaps", [0, 150])
def test_where_the_search_ended_is_said_behind_however_many_warnings(n_gaps: int) -> None:
    # GIVEN claims that overlap behind whole chunks, with bytes between these that each give a warning
    front = file_header() + PHASES * 2 + (PHASES + b"\xaa" * 8) * n_gaps
    data = front + overlapping(64 << 10) + PHASES + END
    trace = Trace.from_bytes(data)
    # THEN the search ends at the claim with which all together exceed 16 times the file, as in the C++ reader
    left, at = 16 * len(data) + 4096 - 72 * (2 + n_gaps), len(front)
    while (claimed := struct.unpack_from("<Q", data, at + 16)[0]) <= left:
        left, at = left - claimed, at + len(claim(0))
    said = [line for line in trace.damage if line.startswith("too much damage")]
    assert said == [f"too much damage before byte {at}: the rest is not searched"]
    assert len(trace.damage) <= 102
    assert not trace.complete
    assert len(trace.phases) == 3 * (2 + n_gaps)


def test_chunks_that_lost_bytes_cost_only_themselves_however_many(checksummed: list[int]) -> None:
    # GIVEN every other of 200 chunks with 8 bytes missing, so that the next one begins within what it claims
    cut = chunk(ChunkKind.PHASES, bytes(range(240)), 24, 10)
    data = file_header() + (PHASES + cut[:100] + cut[108:]) * 200 + PHASES + END
    trace = Trace.from_bytes(data)
    # THEN all the others are there, up to the end
    assert len(trace.phases) == 3 * 201
    assert trace.complete
    assert not any("too much" in line for line in trace.damage)
    assert sum(checksummed) <= 18 * len(data) + 4096


def test_a_long_chunk_that_lost_bytes_costs_only_itself() -> None:
    cut = chunk(ChunkKind.METADATA, b" " * 300_000)
    data = file_header() + PHASES + cut[:-800] + PHASES * 30 + END
    trace = Trace.from_bytes(data)
    assert len(trace.phases) == 3 * 31
    assert trace.complete
    assert sum("damaged" in line for line in trace.damage) == 1


def samples_in(n_chunks: int, channels: list[int], named: list[int]) -> bytes:
    builder = TraceBuilder()
    if channels:
        rows = [{"channel": number, "site": b"s%d" % number, "kind": b"load"} for number in channels]
        builder.records(ChunkKind.CHANNELS, rows_of(ChunkKind.CHANNELS, rows))
    for _ in range(n_chunks):
        rows_now = np.zeros(len(named), SAMPLE)
        rows_now["channel"] = named
        builder.records(ChunkKind.SAMPLES, rows_now)
    return builder.finish()


def test_channel_numbers_are_not_gathered_for_each_chunk_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN many channels and many chunks of samples
    n_channels, n_chunks = 500, 200
    data = samples_in(n_chunks, list(range(n_channels)), [0, n_channels - 1])
    joined: list[int] = []

    def concatenate(arrays: Any, *args: Any, really: Any = np.concatenate, **options: Any) -> Any:
        joined.extend(len(part) for part in arrays)
        return really(arrays, *args, **options)

    monkeypatch.setattr(np, "concatenate", concatenate)  # np.isin goes through it too
    trace = Trace.from_bytes(data)
    # THEN they were gathered once
    assert sum(joined) <= 2 * (n_channels + 2 * n_chunks)
    assert sum(map(len, trace.chunks(ChunkKind.SAMPLES))) == 2 * n_chunks


@pytest.mark.parametrize("channels", [[], [5], [9, 3, 5, 3], [0xFFFFFFFF, 0]])
def test_samples_of_no_channel_are_left_out(channels: list[int]) -> None:
    named = [0, 3, 4, 5, 9, 10, 0xFFFFFFFF]
    trace = Trace.from_bytes(samples_in(2, channels, named))
    kept = [number for number in named if number in channels]
    assert [number for part in trace.chunks(ChunkKind.SAMPLES) for number in part["channel"]] == kept * 2
    n_wrong = len(named) - len(kept)
    assert trace.damage == [f"{n_wrong} samples are of a channel that is not in the trace, and were left out"] * 2


def test_damaged_headers_are_tried_to_be_restored_some_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a file of nothing but chunks whose headers were hit in two places, so that nothing restores them
    hit = bytearray(PHASES)
    hit[4] ^= 0xFF
    hit[30] ^= 0xFF
    n_chunks = 3000
    tried = []
    repair = chunks.repaired_header
    monkeypatch.setattr(chunks, "repaired_header", lambda *where: (tried.append(where[1]), repair(*where))[1])
    trace = Trace.from_bytes(file_header() + (bytes(hit) + PHASES) * n_chunks + END)
    # THEN so many are tried, and every whole chunk is there
    assert len(tried) == 500
    assert len(trace.phases) >= 3 * n_chunks
    assert trace.damage
