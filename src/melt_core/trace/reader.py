"""Reads a ``.melt`` file without copying it: bytes in, checked NumPy arrays per kind out.

    file -> mmap -> chunks.find_chunks -> records per kind -> references checked -> TraceContents

Whatever the bytes are, the result is a ``TraceError`` or contents in which every index column points at a row that
exists (or at ``NONE``), with warnings that say what is missing. Memory beyond the mapping stays within a small
multiple of the file.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import StorageError, TraceError
from melt_core.trace import metadata as meta
from melt_core.trace.chunks import Buffer, Chunk, Findings, find_chunks
from melt_core.trace.counters import offsets_of, op_dtype, with_all_counters
from melt_core.trace.format import (
    FILE_HEADER,
    NONE,
    NUMBERED,
    RECORDS,
    TRACE_MAGIC,
    TRACE_MAJOR,
    TRACE_MINOR,
    ChunkKind,
    lost_records,
)
from melt_core.trace.storage import checked_name

Records = NDArray[Any]

#: Column -> the kind whose rows it numbers.
_TARGET = {
    "run": ChunkKind.RUNS,
    "token": ChunkKind.TOKENS,
    "graph": ChunkKind.GRAPHS,
    "op": ChunkKind.OP_DEFINITIONS,
}
_OP_REFERENCES = ("op", "graph", "token")
_MIN_RECORD_SHARE = 4  # a record shorter than a quarter of ours is no older version but an attempt to fill memory


@dataclass(frozen=True)
class TraceHeader:
    """The file header, decoded."""

    major: int
    minor: int
    clock_id: int
    counter_hz: float
    start_wall_ns: int
    trace_id: str


@dataclass(frozen=True)
class TraceContents:
    """Everything in a trace: record arrays per kind in file order, metadata, and what was wrong with the file."""

    buffer: Buffer
    header: TraceHeader
    records: Mapping[int, tuple[Records, ...]]
    metadata: dict[str, Any]
    damage: tuple[str, ...]
    complete: bool


def read_file(path: str | os.PathLike[str]) -> TraceContents:
    """Maps a file and reads it.

    Raises:
        StorageError: if the system refuses to read the file; a retry helps only if that is put right.
        TraceError: if it is not a trace, its header is damaged, or it is of a newer format.
    """
    name = checked_name("read", path)
    try:
        mode = Path(name).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # not opened: a pipe would wait for a writer
            raise TraceError(f"{name} is not a regular file: save the trace to disk and open that")
        with Path(name).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise TraceError(f"{name} is empty: the run that should have written it did not start")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise StorageError.from_os_error("read", name, error) from error
    except ValueError as error:  # cut off by somebody between the two looks at it
        raise StorageError(f"cannot read {name}: {error}") from error
    return read_buffer(buffer, name)


def read_buffer(buffer: Buffer, name: str = "the trace") -> TraceContents:
    """Reads a trace that lies in memory. `name` is used in messages. Raises: TraceError as read_file does."""
    header, first_chunk_at, notes = _read_header(buffer, name)
    found = find_chunks(buffer, first_chunk_at)
    for note in notes:
        found.warn(note)
    metadata = _read_metadata(buffer, found)
    records = _Assembly(buffer, found).run()
    if found.n_left_out:
        found.warnings.append(f"{found.n_left_out} more warnings of this sort were left out")
    return TraceContents(buffer, header, records, metadata, tuple(found.warnings), found.complete)


def _read_header(buffer: Buffer, name: str) -> tuple[TraceHeader, int, list[str]]:
    raw = bytes(buffer[: FILE_HEADER.itemsize])
    if raw[:8] != TRACE_MAGIC:
        raise TraceError(f"{name} is not a melt trace: it does not begin with the trace's magic bytes")
    if len(raw) < FILE_HEADER.itemsize:
        raise TraceError(f"{name} was cut short inside its header: nothing was recorded, run the profile again")
    fields = np.frombuffer(raw, FILE_HEADER)[0]
    major, minor, header_bytes = int(fields["major"]), int(fields["minor"]), int(fields["header_bytes"])
    if major > TRACE_MAJOR:
        raise TraceError(
            f"{name} is of trace format {major}.{minor} and this melt_core reads up to {TRACE_MAJOR}.x: "
            "upgrade it with pip install -U melt_core"
        )
    if zlib.crc32(raw[:60]) != int(fields["crc32"]):
        raise TraceError(f"{name} has a damaged header (checksum differs): copy it again from where it was recorded")
    if major < 1 or not FILE_HEADER.itemsize <= header_bytes:
        raise TraceError(f"{name} has an impossible header: format {major}.{minor}, {header_bytes} bytes")
    notes = []
    if minor > TRACE_MINOR:
        notes.append(
            f"written in the newer format {major}.{minor}: what it added to {TRACE_MAJOR}.{TRACE_MINOR} is not shown"
        )
    header = TraceHeader(
        major=major,
        minor=minor,
        clock_id=int(fields["clock_id"]),
        counter_hz=float(fields["counter_hz"]),
        start_wall_ns=int(fields["start_wall_ns"]),
        trace_id=bytes(fields["trace_id"]).hex(),
    )
    return header, header_bytes, notes


def _read_metadata(buffer: Buffer, found: Findings) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for chunk in found.chunks:
        if chunk.kind != ChunkKind.METADATA or chunk in found.damaged:
            continue
        if chunk.payload_bytes > meta.MAX_CHUNK_BYTES:
            found.warn(f"byte {chunk.offset}: {chunk.payload_bytes} bytes of metadata are too many and were left out")
            continue
        try:
            meta.merge(metadata, meta.parse(bytes(buffer[chunk.payload_at : chunk.payload_at + chunk.payload_bytes])))
        except ValueError as error:
            found.warn(f"byte {chunk.offset}: metadata was left out: {error}")
    return metadata


class _Assembly:
    """Turns chunks into record arrays whose references hold."""

    def __init__(self, buffer: Buffer, found: Findings) -> None:
        self._buffer = buffer
        self._found = found
        self._records: dict[int, list[Records]] = {kind: [] for kind in RECORDS}
        self._n_known: dict[int, int] = {}
        self._counters: dict[str, int] = {}
        self._channels: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def run(self) -> dict[int, tuple[Records, ...]]:
        self._find_counters()
        for number, chunk in enumerate(self._found.chunks):
            if number == self._found.blind_from:
                self._stop_trusting()
            if chunk.kind in RECORDS and chunk.kind != ChunkKind.COUNTERS:
                self._take(chunk)
        if not self._n_known:
            self._n_known = {kind: self._count(kind) for kind in NUMBERED}
        self._check_run_numbers()
        self._stand_in_for_graphs()
        self._channels = self._channel_numbers()
        checks: dict[int, Callable[[int, Records], Records]] = {
            ChunkKind.OPS: self._keep_sound_ops,
            ChunkKind.SAMPLES: self._keep_sound_samples,
        }
        for kind in RECORDS:
            check = checks.get(kind, self._clear_references)
            self._records[kind] = [check(kind, records) for records in self._records[kind]]
        self._check_topologies()
        return {kind: tuple(part for part in parts if len(part)) for kind, parts in self._records.items()}

    def _find_counters(self) -> None:
        """Learns what the op records hold beyond their own fields, wherever in the file that is said."""
        for chunk in self._found.chunks:
            if chunk.kind == ChunkKind.COUNTERS:
                self._take(chunk)
        self._counters, wrong = offsets_of(self._records[ChunkKind.COUNTERS])
        for warning in wrong:
            self._found.warn(warning)

    def _count(self, kind: int) -> int:
        return sum(len(part) for part in self._records[kind])

    def _stop_trusting(self) -> None:
        """Row numbers behind lost chunks of unknown kind may be off: references stop at what was counted so far."""
        self._n_known = {kind: self._count(kind) for kind in NUMBERED}
        self._found.warn("rows behind the damage cannot be numbered for certain: what refers to them was left out")

    def _take(self, chunk: Chunk) -> None:
        dtype = RECORDS[chunk.kind]
        size, count = chunk.record_bytes, chunk.record_count
        if size * count != chunk.payload_bytes or size * _MIN_RECORD_SHARE < dtype.itemsize:
            if count:
                self._found.warn(f"byte {chunk.offset}: {count} records of {size} bytes cannot be, and were left out")
            return
        if chunk not in self._found.damaged:
            if chunk.kind == ChunkKind.OPS:
                dtype = op_dtype(self._counters, size)
            records = _as_records(self._buffer, chunk, dtype)
            if chunk.kind == ChunkKind.OPS:
                records = with_all_counters(records, self._counters)
            self._records[chunk.kind].append(records)
        elif chunk.kind in NUMBERED:
            self._records[chunk.kind].append(lost_records(chunk.kind, count))

    def _check_run_numbers(self) -> None:
        first, n_wrong = 0, 0
        for part in self._records[ChunkKind.RUNS]:
            n_wrong += int(np.count_nonzero(part["run"] != np.arange(first, first + len(part))))
            first += len(part)
        if n_wrong:
            self._found.warn(f"{n_wrong} runs are damaged or out of order and were left out of every figure")

    def _stand_in_for_graphs(self) -> None:
        """Adds stand-ins for graphs that ops name but a cut took away: the recorder writes graphs behind their ops."""
        if self._found.complete or self._found.blind_from is not None:
            return
        ops = self._records[ChunkKind.OPS]
        limit = self._n_known[ChunkKind.GRAPHS] + sum(map(len, ops))
        named = [part["graph"][part["graph"] < limit].max(initial=0) for part in ops]
        n_lost = max(map(int, named), default=-1) + 1 - self._n_known[ChunkKind.GRAPHS]
        if n_lost > 0:
            self._found.warn(f"{n_lost} graphs were cut off; their ops are there")
            self._records[ChunkKind.GRAPHS].append(lost_records(ChunkKind.GRAPHS, n_lost))
            self._n_known[ChunkKind.GRAPHS] += n_lost

    def _clear_references(self, kind: int, records: Records) -> Records:
        """Returns the records with references to missing rows set to NONE; rows stay, because others count them."""
        if kind == ChunkKind.RUNS:
            return records
        for name in ("run", "token"):
            if name not in (records.dtype.names or ()):
                continue
            wrong = (records[name] != NONE) & (records[name] >= self._n_known[_TARGET[name]])
            n_wrong = int(np.count_nonzero(wrong))
            if n_wrong:
                records = records.copy()
                records[name][wrong] = NONE
                table = ChunkKind(kind).name.lower()
                self._found.warn(f"{n_wrong} rows of {table} refer to a {name} that is not in the trace")
        return records

    def _keep_sound_ops(self, kind: int, records: Records) -> Records:
        """Returns the op records whose references hold: the array itself if all do."""
        del kind
        limits = {name: self._n_known[_TARGET[name]] for name in _OP_REFERENCES}
        if all(_greatest(records[name]) < limits[name] for name in _OP_REFERENCES):
            return records
        sound = records["op"] < limits["op"]
        for name in ("graph", "token"):
            sound &= (records[name] < limits[name]) | (records[name] == NONE)
        n_wrong = len(records) - int(np.count_nonzero(sound))
        if not n_wrong:
            return records
        self._found.warn(f"{n_wrong} op records refer to rows that are not in the trace, and were left out")
        kept: Records = records[sound]
        return kept

    def _channel_numbers(self) -> NDArray[np.uint32]:
        """Returns the numbers of all channels, sorted: once, as a file may hold many chunks of samples."""
        parts = [part["channel"] for part in self._records[ChunkKind.CHANNELS]]
        return np.unique(np.concatenate([*parts, np.zeros(0, np.uint32)]))

    def _keep_sound_samples(self, kind: int, records: Records) -> Records:
        """Returns the samples whose channel is in the trace."""
        del kind
        known, named = self._channels, records["channel"]
        if len(known):  # looked up, not np.isin: that would sort the known ones anew for each chunk
            sound = known[np.minimum(np.searchsorted(known, named), len(known) - 1)] == named
        else:
            sound = np.zeros(len(records), np.bool_)
        n_wrong = len(records) - int(np.count_nonzero(sound))
        if not n_wrong:
            return records
        self._found.warn(f"{n_wrong} samples are of a channel that is not in the trace, and were left out")
        kept: Records = records[sound]
        return kept

    def _check_topologies(self) -> None:
        defined = [part["topology"] for part in self._records[ChunkKind.OP_DEFINITIONS]]
        used = [part["topology"] for part in self._records[ChunkKind.GRAPHS]]
        if not used:
            return
        known = np.unique(np.concatenate([*defined, np.array([NONE], np.uint32)]))
        n_wrong = int(np.count_nonzero(~np.isin(np.concatenate(used), known)))
        if n_wrong:
            self._found.warn(f"{n_wrong} graphs are of a topology that has no op definitions in the trace")


def _greatest(column: Records) -> int:
    return int(column.max(initial=0))


def _as_records(buffer: Buffer, chunk: Chunk, dtype: np.dtype[Any]) -> Records:
    """Returns a view of the payload; a copy filled up with zeros only where an older version's records are shorter."""
    size = chunk.record_bytes
    if size == dtype.itemsize:
        return np.frombuffer(buffer, dtype, chunk.record_count, chunk.payload_at)
    fields: Mapping[str, Any] = dtype.fields or {}
    whole = {name: (part[0], part[1]) for name, part in fields.items() if part[1] + part[0].itemsize <= size}
    stored = np.dtype(
        {
            "names": list(whole),
            "formats": [part[0] for part in whole.values()],
            "offsets": [part[1] for part in whole.values()],
            "itemsize": size,
        }
    )
    view = np.frombuffer(buffer, stored, chunk.record_count, chunk.payload_at)
    if size > dtype.itemsize:
        return view
    filled = np.zeros(chunk.record_count, dtype)
    for name in whole:
        filled[name] = view[name]
    return filled
