"""The ``.melt`` file as NumPy sees it: the twin of cpp/include/melt/trace_format.h, names and all.

::

    FileHeader 64 B | { ChunkHeader 32 B | payload | zero bytes up to the next multiple of 8 } ...

Everything is little-endian. A chunk is readable on its own; unknown kinds are skipped; a record may be longer than
its dtype here (a newer minor version appended fields) or shorter (an older one lacked some, which then read as zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TRACE_MAGIC: Final = b"\x89MELT\r\n\x1a"
CHUNK_MAGIC: Final = b"CHNK"
TRACE_MAJOR: Final = 1
TRACE_MINOR: Final = 1
#: "No such row" in any index column.
NONE: Final = 0xFFFFFFFF

RUN_WARMUP: Final = 1 << 0
TOKEN_END_OF_TEXT: Final = 1 << 0
TOKEN_CUT: Final = 1 << 1
GRAPH_ABORTED: Final = 1 << 0
GRAPH_ENDS_SEEN: Final = 1 << 1
OP_SWITCHED: Final = 1 << 0
OP_MIGRATED: Final = 1 << 1
OP_PEER_DISTURBED: Final = 1 << 2
SWITCH_PREEMPTED: Final = 1 << 0


class ClockId(IntEnum):
    """Which counter the ticks of a trace came from."""

    TSC = 1
    CNTVCT = 2
    STEADY = 3
    SIMULATED = 4


class ChunkKind(IntEnum):
    """What a chunk holds. Stored: values are never reused."""

    METADATA = 1
    RUNS = 2
    PHASES = 3
    TOKENS = 4
    GRAPHS = 5
    OP_DEFINITIONS = 6
    OPS = 7
    OVERHEAD = 8
    PROMPTS = 9
    END = 10
    ALLOCATIONS = 11
    CHANNELS = 12
    SAMPLES = 13
    COUNTERS = 20
    SWITCHES = 21


class MemoryCategory(IntEnum):
    """What a buffer of the runtime is for."""

    WEIGHTS = 1
    REPACK = 2
    KV = 3
    COMPUTE = 4
    OUTPUT = 5
    OTHER = 6


class MemoryEvent(IntEnum):
    """What happened to a buffer."""

    ALLOCATED = 1
    RELEASED = 2
    MAPPED = 3
    UNMAPPED = 4


class Phase(IntEnum):
    """What a session was doing."""

    LOAD = 1
    TOKENIZE = 2
    PREFILL = 3
    DECODE = 4
    UNLOAD = 5
    IDLE = 6
    MARKER = 7


class StopReason(IntEnum):
    """Why a run ended."""

    LIMIT = 1
    END_OF_TEXT = 2
    CONTEXT_FULL = 3
    CANCELLED = 4
    ERROR = 5


FILE_HEADER: Final = np.dtype(
    [
        ("magic", "u1", (8,)),
        ("major", "<u2"),
        ("minor", "<u2"),
        ("header_bytes", "<u4"),
        ("clock_id", "<u4"),
        ("reserved0", "<u4"),
        ("counter_hz", "<f8"),
        ("start_wall_ns", "<i8"),
        ("trace_id", "u1", (16,)),
        ("reserved1", "<u4"),
        ("crc32", "<u4"),
    ]
)

CHUNK_HEADER: Final = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<u4"),
        ("record_bytes", "<u4"),
        ("record_count", "<u4"),
        ("payload_bytes", "<u8"),
        ("payload_crc32", "<u4"),
        ("header_crc32", "<u4"),
    ]
)

RUN: Final = np.dtype(
    [
        ("run", "<u4"),
        ("flags", "<u2"),
        ("stop_reason", "<u2"),
        ("n_prompt", "<u4"),
        ("n_output", "<u4"),
        ("n_threads", "<u4"),
        ("n_graphs", "<u4"),
        ("n_groups", "<u8"),
        ("n_records", "<u8"),
        ("n_dropped", "<u8"),
        ("start_ns", "<i8"),
        ("duration_ns", "<i8"),
        ("prefill_ns", "<i8"),
        ("peak_rss_bytes", "<f8"),
    ]
)

PHASE: Final = np.dtype(
    [("run", "<u4"), ("phase", "<u2"), ("reserved", "<u2"), ("start_ns", "<i8"), ("duration_ns", "<i8")]
)

TOKEN: Final = np.dtype(
    [
        ("run", "<u4"),
        ("index", "<u4"),
        ("phase", "<u2"),
        ("flags", "<u2"),
        ("token_id", "<i4"),
        ("n_tokens", "<u4"),
        ("reserved1", "<u4"),
        ("start_ns", "<i8"),
        ("duration_ns", "<i8"),
    ]
)

GRAPH: Final = np.dtype(
    [
        ("topology", "<u4"),
        ("token", "<u4"),
        ("n_threads", "<u2"),
        ("flags", "<u2"),
        ("n_groups", "<u4"),
        ("n_dropped", "<u4"),
        ("reserved", "<u4"),
        ("start_ns", "<i8"),
        ("duration_ns", "<i8"),
    ]
)

OP_DEFINITION: Final = np.dtype(
    [
        ("topology", "<u4"),
        ("node", "<u4"),
        ("layer", "<i4"),
        ("n_fused", "<u4"),
        ("flops", "<f8"),
        ("bytes_read", "<f8"),
        ("bytes_written", "<f8"),
        ("dtype", "S16"),
        ("src_dtype", "S16", (3,)),
        ("shape", "<i8", (4,)),
        ("src_shape", "<i8", (3, 4)),
        ("op", "S64"),
        ("weight", "S64"),
        ("op_type", "S32"),
        ("module", "S16"),
        ("backend", "S16"),
        ("buffer", "S32"),
        ("live_bytes", "<f8"),
    ]
)

OP: Final = np.dtype(
    [
        ("start_ns", "<i8"),
        ("compute_ns", "<i8"),
        ("wait_ns", "<i8"),
        ("op", "<u4"),
        ("graph", "<u4"),
        ("token", "<u4"),
        ("thread", "<u2"),
        ("flags", "<u2"),
    ]
)

OVERHEAD: Final = np.dtype(
    [("phase", "<u2"), ("on_first", "<u2"), ("n_tokens", "<u4"), ("off_ns", "<i8"), ("on_ns", "<i8")]
)

PROMPT: Final = np.dtype([("run", "<u4"), ("token_id", "<i4")])

ALLOCATION: Final = np.dtype(
    [
        ("time_ns", "<i8"),
        ("bytes", "<u8"),
        ("buffer_id", "<u4"),
        ("category", "<u2"),
        ("event", "<u2"),
        ("backend", "S16"),
        ("buffer", "S24"),
    ]
)

CHANNEL: Final = np.dtype(
    [
        ("channel", "<u4"),
        ("reserved", "<u4"),
        ("site", "S32"),
        ("kind", "S32"),
        ("unit", "S16"),
        ("source", "S64"),
    ]
)

SAMPLE: Final = np.dtype([("time_ns", "<i8"), ("value", "<f8"), ("channel", "<u4"), ("reserved", "<u4")])

COUNTER: Final = np.dtype([("name", "S32"), ("source", "S64"), ("kind", "<u4"), ("offset", "<u4")])

SWITCH: Final = np.dtype(
    [
        ("start_ns", "<i8"),
        ("duration_ns", "<i8"),
        ("run", "<u4"),
        ("thread", "<u2"),
        ("flags", "<u2"),
        ("cpu_before", "<u4"),
        ("cpu_after", "<u4"),
    ]
)

#: The dtype of each kind that holds records.
RECORDS: Final[Mapping[int, np.dtype[Any]]] = MappingProxyType(
    {
        ChunkKind.RUNS: RUN,
        ChunkKind.PHASES: PHASE,
        ChunkKind.TOKENS: TOKEN,
        ChunkKind.GRAPHS: GRAPH,
        ChunkKind.OP_DEFINITIONS: OP_DEFINITION,
        ChunkKind.OPS: OP,
        ChunkKind.OVERHEAD: OVERHEAD,
        ChunkKind.PROMPTS: PROMPT,
        ChunkKind.ALLOCATIONS: ALLOCATION,
        ChunkKind.CHANNELS: CHANNEL,
        ChunkKind.SAMPLES: SAMPLE,
        ChunkKind.COUNTERS: COUNTER,
        ChunkKind.SWITCHES: SWITCH,
    }
)

#: Kinds whose rows other tables refer to by number: a row of theirs is never left out, or the numbers would shift.
NUMBERED: Final = frozenset({ChunkKind.RUNS, ChunkKind.TOKENS, ChunkKind.GRAPHS, ChunkKind.OP_DEFINITIONS})


def lost_records(kind: int, count: int) -> NDArray[Any]:
    """Returns stand-ins for ``count`` numbered records that were damaged: they refer to nothing and claim nothing."""
    rows = np.zeros(count, RECORDS[kind])
    for name in ("run", "token", "topology"):
        if name in (rows.dtype.names or ()):
            rows[name] = NONE
    for name in ("flops", "bytes_read", "bytes_written", "live_bytes", "peak_rss_bytes"):
        if name in (rows.dtype.names or ()):
            rows[name] = np.nan
    if kind == ChunkKind.OP_DEFINITIONS:
        rows["layer"] = -1
        rows["op_type"] = b"LOST"
        rows["op"] = b"(lost)"
    return rows
