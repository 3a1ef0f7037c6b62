"""Finds the chunks of a ``.melt`` file, whatever happened to it on the way.

Every byte of a trace is covered by something: the file header and the chunk headers by their CRC, payloads by
theirs, padding by being zero. So a flipped byte is always noticed, and costs one chunk at most.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from melt_core.trace.format import CHUNK_HEADER, CHUNK_MAGIC, RECORDS, ChunkKind

Buffer = bytes | mmap.mmap

_HEADER_BYTES = CHUNK_HEADER.itemsize
_HEADER = struct.Struct("<IIIIQII")
_MAX_WARNINGS = 100
_MAX_COUNT = 0xFFFFFFFF
_MAX_REPAIRS = 500  # headers that are tried to be restored: each takes up to a millisecond, and a real file has few
_MAX_PASSES = 16  # bytes checksummed per byte of input, all overlapping candidates together; as in the C++ reader
_MIN_CHECKSUM_BUDGET = 4096
_MAGIC_NUMBER = int.from_bytes(CHUNK_MAGIC, "little")
_RECORD_BYTES: dict[int, int] = {
    ChunkKind.METADATA: 0,
    ChunkKind.END: 0,
    **{kind: dtype.itemsize for kind, dtype in RECORDS.items()},
}
_PARALLEL_FROM_BYTES = 8 << 20
_CHECK_THREADS = 2  # zlib.crc32 releases the interpreter lock; more threads than this only wait for memory


@dataclass(frozen=True)
class Chunk:
    """Where one chunk lies; its payload is at ``payload_at``."""

    offset: int
    kind: int
    record_bytes: int
    record_count: int
    payload_bytes: int
    payload_crc32: int

    @property
    def payload_at(self) -> int:
        """Offset of the payload in the file."""
        return self.offset + _HEADER_BYTES

    @property
    def end(self) -> int:
        """Offset of what follows the payload and its padding."""
        return self.payload_at + (self.payload_bytes + 7) // 8 * 8


@dataclass
class Findings:
    """What a scan found: chunks in file order, and what was wrong.

    A chunk in ``damaged`` had a good header but a bad payload, so it is known what is missing. After a
    ``blind_from`` (the index of the first chunk behind damage that hides even that) row numbers cannot be trusted.
    """

    chunks: list[Chunk] = field(default_factory=list)
    damaged: set[Chunk] = field(default_factory=set)
    blind_from: int | None = None
    complete: bool = False
    warnings: list[str] = field(default_factory=list)
    n_left_out: int = 0

    def warn(self, text: str, *, always: bool = False) -> None:
        """Keeps a warning; beyond a hundred they are only counted, but for those that `always` are to be seen."""
        if always or len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)
        else:
            self.n_left_out += 1


def find_chunks(buffer: Buffer, start: int) -> Findings:
    """Returns the chunks from byte ``start`` on. Payloads are checked too, in two threads if there is much to check."""
    found = Findings()
    with memoryview(buffer) as view:
        _scan(buffer, view, start, found)
        _check_payloads(view, found)
    return found


def _scan(buffer: Buffer, view: memoryview, start: int, found: Findings) -> None:
    size = len(view)
    checksum_budget = _MAX_PASSES * size + _MIN_CHECKSUM_BUDGET
    repairs_left = _MAX_REPAIRS
    at = start
    while at < size and not found.complete:
        chunk = _header_at(view, at)
        if chunk is None:
            after = _next_header(buffer, view, at + 1)
            chunk = repaired_header(view, at, after) if repairs_left else None
            repairs_left = max(repairs_left - 1, 0)
            if chunk is None:
                at = _pass_over(at, after, size, found)
                continue
            found.warn(f"byte {at}: the header of a chunk was damaged, and could be restored")
        if chunk.payload_at + chunk.payload_bytes > size:
            at = _pass_over(at, _next_header(buffer, view, chunk.payload_at), size, found)
            continue
        if chunk.payload_bytes > checksum_budget:  # chunks do not overlap, unless somebody made them to be slow to read
            found.warn(f"too much damage before byte {at}: the rest is not searched", always=True)
            return
        checksum_budget -= chunk.payload_bytes
        found.chunks.append(chunk)
        found.complete = chunk.kind == ChunkKind.END
        follows = min(chunk.end, size)
        if follows == size or found.complete or _header_at(view, follows) or _payload_ok(view, chunk):
            at = follows
        else:  # bytes may be missing inside the payload: look for the next chunk in it
            found.chunks.pop()
            at = _pass_over(at, _next_header(buffer, view, chunk.payload_at), size, found)
    _check_end(size, at, found)


def _check_end(size: int, at: int, found: Findings) -> None:
    if not found.complete:
        found.warn("the trace was cut short: it has no end chunk, and whatever came after the last chunk is missing")
    elif at < size:
        found.warn(f"byte {at}: {size - at} bytes after the end of the trace were left out")


def _header_at(view: memoryview, at: int) -> Chunk | None:
    raw = bytes(view[at : at + _HEADER_BYTES])
    if len(raw) < _HEADER_BYTES or raw[:4] != CHUNK_MAGIC:
        return None
    _, kind, record_bytes, count, payload_bytes, payload_crc, header_crc = _HEADER.unpack(raw)
    if zlib.crc32(raw[:28]) != header_crc:
        return None
    return Chunk(at, kind, record_bytes, count, payload_bytes, payload_crc)


def _next_header(buffer: Buffer, view: memoryview, search_from: int) -> int:
    """Returns where the next whole header is, or the end of the file."""
    at = buffer.find(CHUNK_MAGIC, search_from)
    while at >= 0 and _header_at(view, at) is None:
        at = buffer.find(CHUNK_MAGIC, at + 1)
    return at if at >= 0 else len(view)


def _pass_over(damaged_at: int, after: int, size: int, found: Findings) -> int:
    """Notes that the bytes up to `after` are lost, and returns that."""
    if after == size:
        found.warn(f"byte {damaged_at}: an incomplete chunk of {size - damaged_at} bytes was left out")
        return size
    found.warn(f"byte {damaged_at}: {after - damaged_at} damaged bytes were left out")
    if found.blind_from is None:
        found.blind_from = len(found.chunks)
    return after


def repaired_header(view: memoryview, at: int, after: int) -> Chunk | None:
    """Returns the chunk that fills the bytes from `at` to `after`, if its damaged header can be restored for certain.

    How long the chunk is follows from where the next one begins, and there are few kinds: the header that gives the
    checksum (of the header or of the payload, whichever was not hit) is the one that was written.
    """
    if after - at < _HEADER_BYTES:
        return None
    raw = bytes(view[at : at + _HEADER_BYTES])
    header_crc = int.from_bytes(raw[28:], "little")
    as_it_is = None
    for head, chunk in _possible_headers(view, at, after):
        if zlib.crc32(head) == header_crc:
            return chunk
        if head == raw[:28] and chunk.record_bytes == _RECORD_BYTES.get(chunk.kind) and _payload_ok(view, chunk):
            as_it_is = chunk  # only the header's own checksum was hit
    return as_it_is


def _possible_headers(view: memoryview, at: int, after: int) -> Iterator[tuple[bytes, Chunk]]:
    """Yields the headers, up to their own checksum, that a chunk of this length can have had."""
    _, kind, record_bytes, _, _, stated_crc, _ = _HEADER.unpack(view[at : at + _HEADER_BYTES])
    sizes = set(_RECORD_BYTES.items()) | {(known, record_bytes) for known in (*_RECORD_BYTES, kind)}
    longest = after - at - _HEADER_BYTES
    for payload_bytes in range(max(longest - 7, 0), longest + 1):
        actual_crc = zlib.crc32(view[at + _HEADER_BYTES : at + _HEADER_BYTES + payload_bytes])
        for known, size in sizes:
            count, rest = divmod(payload_bytes, size) if size else (0, 0)
            if rest or count > _MAX_COUNT:
                continue
            for crc in {actual_crc, stated_crc}:
                head = _HEADER.pack(_MAGIC_NUMBER, known, size, count, payload_bytes, crc, 0)[:28]
                yield head, Chunk(at, known, size, count, payload_bytes, crc)


def _payload_ok(view: memoryview, chunk: Chunk) -> bool:
    return zlib.crc32(view[chunk.payload_at : chunk.payload_at + chunk.payload_bytes]) == chunk.payload_crc32


def _check_payloads(view: memoryview, found: Findings) -> None:
    def check(chunk: Chunk) -> bool:
        return _payload_ok(view, chunk)

    checks: Iterable[bool]
    if sum(chunk.payload_bytes for chunk in found.chunks) < _PARALLEL_FROM_BYTES:
        checks = map(check, found.chunks)
    else:
        with ThreadPoolExecutor(_CHECK_THREADS) as pool:
            checks = list(pool.map(check, found.chunks))
    for chunk, is_right in zip(found.chunks, checks, strict=True):
        if not is_right:
            found.damaged.add(chunk)
            found.warn(f"byte {chunk.offset}: a damaged chunk of {chunk.payload_bytes} bytes was left out")
            continue
        padding = bytes(view[chunk.payload_at + chunk.payload_bytes : min(chunk.end, len(view))])
        if padding.strip(b"\0"):
            found.warn(f"byte {chunk.payload_at + chunk.payload_bytes}: damaged padding; the chunk itself is whole")
