"""Adds records to a trace that is complete on its own: samples that someone else took, and what is known of them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.chunks import find_chunks
from melt_core.trace.format import CHUNK_MAGIC, RECORDS, ChunkKind
from melt_core.trace.trace import Trace

#: Readers need not take larger ones.
MAX_PAYLOAD_BYTES: Final = 16 << 20


def chunk(kind: int, payload: bytes, record_bytes: int = 0, record_count: int = 0) -> bytes:
    """Returns the bytes of one chunk: header, payload, zero bytes up to the next multiple of 8."""
    magic = int.from_bytes(CHUNK_MAGIC, "little")
    head = struct.pack("<IIIIQI", magic, kind, record_bytes, record_count, len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload + bytes(-len(payload) % 8)


def record_chunks(kind: ChunkKind, rows: NDArray[Any]) -> bytes:
    """Returns the chunks that hold these records."""
    size = RECORDS[kind].itemsize
    assert rows.dtype == RECORDS[kind]
    per_chunk = MAX_PAYLOAD_BYTES // size
    parts = [rows[start : start + per_chunk] for start in range(0, len(rows), per_chunk)]
    return b"".join(chunk(kind, part.tobytes(), size, len(part)) for part in parts)


def appended(
    trace: Trace, *, records: Mapping[ChunkKind, NDArray[Any]], metadata: Mapping[str, Any] | None = None
) -> bytes:
    """Returns the trace's bytes with more records and metadata; what was damaged in it stays behind.

    The file's end is marked only if the trace's was.
    """
    buffer = trace._contents.buffer
    header_bytes = int.from_bytes(bytes(buffer[12:16]), "little")
    found = find_chunks(buffer, header_bytes)
    parts = [bytes(buffer[:header_bytes])]
    for one in found.chunks:
        if one.kind != ChunkKind.END and one not in found.damaged:
            padded = bytes(buffer[one.offset : one.payload_at + one.payload_bytes])
            parts.append(padded + bytes(-one.payload_bytes % 8))
    parts += [record_chunks(kind, np.ascontiguousarray(rows)) for kind, rows in records.items()]
    if metadata:
        parts.append(chunk(ChunkKind.METADATA, json.dumps(dict(metadata), allow_nan=False).encode()))
    if found.complete:
        parts.append(chunk(ChunkKind.END, b""))
    return b"".join(parts)
