"""Adds metadata and samples to a trace that is already written: what another machine knows about the same run.

    trace as recorded: header | chunks | kEnd   ->   header | the same chunks | metadata, channels, samples | kEnd

The chunks that were there stay byte for byte as they were. A trace that was cut short gets its additions behind its
last complete chunk and still has no kEnd: it is not made to look complete.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError, StorageError, TraceError
from melt_core.trace.chunks import Buffer, Findings, find_chunks
from melt_core.trace.format import CHANNEL, CHUNK_MAGIC, FILE_HEADER, SAMPLE, TRACE_MAGIC, ChunkKind
from melt_core.trace.storage import written_atomically

_HEADER = struct.Struct("<IIIIQI")
_MAGIC = int.from_bytes(CHUNK_MAGIC, "little")
_MAX_PAYLOAD_BYTES = 16 << 20
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class SampleSeries:
    """Readings of one channel; times in ns since the trace began, on its clock."""

    site: str
    kind: str
    unit: str
    source: str
    times_ns: Sequence[int] | NDArray[np.int64]
    values: Sequence[float] | NDArray[np.float64]


def append_to_trace(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any],
    series: Sequence[SampleSeries] = (),
) -> None:
    """Writes the trace at `source` with additions to `target`, whole or not at all; the two may be the same file.

    Args:
        source: A trace.
        target: The file to write.
        metadata: JSON-able; replaces keys of the same name, except that a list under "warnings" is joined.
        series: Each becomes a channel of its own.

    Raises:
        TraceError: `source` is no trace.
        StorageError: A file cannot be read or written.
        InvalidArgumentError: The metadata is not JSON-able.
    """
    name = os.fspath(source)
    try:
        with Path(name).open("rb") as file:
            if os.fstat(file.fileno()).st_size < FILE_HEADER.itemsize:
                raise TraceError(f"{name} was cut short inside its header: nothing was recorded")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer, written_atomically(target) as out:
                write_appended(buffer, out, name=name, metadata=metadata, series=series)
    except (StorageError, BrokenPipeError):
        raise
    except OSError as error:
        raise StorageError.from_os_error("read", name, error) from error


def write_appended(
    buffer: Buffer, out: BinaryIO, *, name: str, metadata: Mapping[str, Any], series: Sequence[SampleSeries] = ()
) -> None:
    """Writes the bytes of a trace with additions to an open file. Raises: as append_to_trace does."""
    try:
        text = json.dumps(dict(metadata), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the metadata cannot be written as JSON: {error}") from error
    head = np.frombuffer(bytes(buffer[: FILE_HEADER.itemsize]), FILE_HEADER)[0]
    start = int(head["header_bytes"])
    if bytes(head["magic"]) != TRACE_MAGIC or not FILE_HEADER.itemsize <= start <= len(buffer):
        raise TraceError(f"{name} is not a melt trace: nothing can be added to it")
    found = find_chunks(buffer, start)
    keep = _kept_bytes(found, start)
    channels, samples = _records(series, _next_channel(buffer, found))
    for at in range(0, min(keep, len(buffer)), _COPY_BYTES):
        out.write(buffer[at : min(at + _COPY_BYTES, keep)])
    out.write(bytes(max(keep - len(buffer), 0)))  # the padding that a cut took
    _write_chunk(out, ChunkKind.METADATA, text)
    if len(channels):
        _write_chunk(out, ChunkKind.CHANNELS, channels.tobytes(), CHANNEL.itemsize)
    step = _MAX_PAYLOAD_BYTES // SAMPLE.itemsize
    for at in range(0, len(samples), step):
        _write_chunk(out, ChunkKind.SAMPLES, samples[at : at + step].tobytes(), SAMPLE.itemsize)
    if found.complete:
        _write_chunk(out, ChunkKind.END, b"")


def _kept_bytes(found: Findings, start: int) -> int:
    """Returns up to where the file is kept: kEnd goes, as does what lies behind the last chunk of a cut file."""
    if found.complete:
        return found.chunks[-1].offset
    return found.chunks[-1].end if found.chunks else start


def _next_channel(buffer: Buffer, found: Findings) -> int:
    numbers = [0]
    for chunk in found.chunks:
        if chunk.kind == ChunkKind.CHANNELS and chunk.record_bytes >= 4 and chunk not in found.damaged:
            payload = bytes(buffer[chunk.payload_at : chunk.payload_at + chunk.payload_bytes])
            count = min(chunk.record_count, len(payload) // chunk.record_bytes)
            firsts = [struct.unpack_from("<I", payload, row * chunk.record_bytes)[0] for row in range(count)]
            numbers.append(max(firsts, default=-1) + 1)
    return int(max(numbers))


def _records(series: Sequence[SampleSeries], first: int) -> tuple[Any, Any]:
    channels = np.zeros(len(series), CHANNEL)
    samples = np.zeros(sum(len(one.values) for one in series), SAMPLE)
    at = 0
    for row, one in enumerate(series):
        texts = (_fit(text, CHANNEL[name].itemsize) for name, text in _texts(one))
        channels[row] = (first + row, 0, *texts)
        block = samples[at : at + len(one.values)]
        block["time_ns"] = np.asarray(one.times_ns, np.int64)
        block["value"] = np.asarray(one.values, np.float64)
        block["channel"] = first + row
        at += len(one.values)
    return channels, samples[np.argsort(samples["time_ns"], kind="stable")]


def _texts(one: SampleSeries) -> tuple[tuple[str, str], ...]:
    return ("site", one.site), ("kind", one.kind), ("unit", one.unit), ("source", one.source)


def _fit(text: str, size: int) -> bytes:
    """Returns a text for a field; of one that is too long its end, which for a path tells more than its beginning."""
    data = text.encode("utf-8", "replace")
    if len(data) <= size:
        return data
    return b"..." + data[-(size - 3) :].decode("utf-8", "ignore").encode()


def _write_chunk(out: BinaryIO, kind: ChunkKind, payload: bytes, record_bytes: int = 0) -> None:
    count = len(payload) // record_bytes if record_bytes else 0
    header = _HEADER.pack(_MAGIC, kind, record_bytes, count, len(payload), zlib.crc32(payload))
    out.write(header + struct.pack("<I", zlib.crc32(header)) + payload + bytes(-len(payload) % 8))
