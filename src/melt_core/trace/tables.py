"""What columns each table of a trace has, and which stored field each comes from. Names carry their unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.columns import Column, DerivedColumn, FieldColumn, LookupColumn
from melt_core.trace.context import ContextColumn
from melt_core.trace.counters import CounterKind, counter_names, disturbed_source
from melt_core.trace.format import (
    GRAPH_ABORTED,
    GRAPH_ENDS_SEEN,
    NONE,
    RECORDS,
    RUN_WARMUP,
    SWITCH_PREEMPTED,
    TOKEN_CUT,
    TOKEN_END_OF_TEXT,
    ChunkKind,
    MemoryCategory,
    MemoryEvent,
    Phase,
    StopReason,
)
from melt_core.trace.table import Table

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Records = NDArray[Any]

_TEXT_FIELDS = ("op", "op_type", "layer", "module", "backend", "buffer", "dtype", "weight")


def names_of(members: type[IntEnum]) -> Records:
    """Returns the lower-case name for each number of an enum: "" for 0, "unknown" beyond it."""
    names = [""] * (max(members) + 2)
    names[-1] = "unknown"
    for member in members:
        names[member] = member.name.lower()
    return np.array(names, object)


def decode_text(column: Records) -> Records:
    """Returns zero-padded UTF-8 fields as Python strings; bytes that are no UTF-8 become U+FFFD."""
    return np.array([value.decode("utf-8", "replace") for value in column.tolist()], object)


def shape_text(shapes: Records) -> Records:
    """Returns "576x1536" for shapes [n, 4], slowest axis first, without leading ones beyond two axes."""
    texts = []
    for shape in shapes.tolist():
        while len(shape) > 2 and shape[0] in (0, 1):
            shape = shape[1:]
        texts.append("x".join(map(str, shape)))
    return np.array(texts, object)


def _fields(parts: Sequence[Records], *names: str, missing: Mapping[str, Any] | None = None) -> dict[str, Column]:
    missing = missing or {}
    return {name: FieldColumn(parts, name, missing.get(name)) for name in names}


def _named(column: Column, members: type[IntEnum]) -> Column:
    return LookupColumn(column, names_of(members), missing="")


def _flag(parts: Sequence[Records], mask: int) -> Column:
    return DerivedColumn(FieldColumn(parts, "flags"), lambda flags: (flags & mask) != 0)


def _table(parts: Sequence[Records], columns: dict[str, Column]) -> Table:
    return Table(columns, sum(map(len, parts)), parts[0] if len(parts) == 1 else None)


def _parts(trace: Trace, kind: ChunkKind) -> Sequence[Records]:
    return trace.chunks(kind) or (np.zeros(0, RECORDS[kind]),)


def runs(trace: Trace) -> Table:
    """One row per repetition."""
    parts = _parts(trace, ChunkKind.RUNS)
    columns = _fields(parts, "run", missing={"run": NONE})
    columns["warmup"] = _flag(parts, RUN_WARMUP)
    columns["stop_reason"] = _named(FieldColumn(parts, "stop_reason"), StopReason)
    columns |= _fields(parts, "n_prompt", "n_output", "n_threads", "n_graphs", "n_groups", "n_records", "n_dropped")
    return _table(parts, columns | _fields(parts, "start_ns", "duration_ns", "prefill_ns", "peak_rss_bytes"))


def phases(trace: Trace) -> Table:
    """One row per phase; `run` is missing for load and unload."""
    parts = _parts(trace, ChunkKind.PHASES)
    columns = _fields(parts, "run", missing={"run": NONE})
    columns["phase"] = _named(FieldColumn(parts, "phase"), Phase)
    return _table(parts, columns | _fields(parts, "start_ns", "duration_ns"))


def tokens(trace: Trace) -> Table:
    """One row per evaluation step and the output token it gave.

    `end_of_text`: generated, but no part of the output; `cut`: the step was cancelled or failed, so there is no token.
    """
    parts = _parts(trace, ChunkKind.TOKENS)
    columns = _fields(parts, "run", "index", missing={"run": NONE})
    columns["phase"] = _named(FieldColumn(parts, "phase"), Phase)
    columns |= _fields(parts, "start_ns", "duration_ns", "token_id", "n_tokens", missing={"token_id": -1})
    columns["end_of_text"] = _flag(parts, TOKEN_END_OF_TEXT)
    columns["cut"] = _flag(parts, TOKEN_CUT)
    return _table(parts, columns)


def graphs(trace: Trace) -> Table:
    """One row per executed graph; `token` is a row of the tokens table.

    `ends_seen`: ends of its ops are those that the waiting threads saw, each right to some 0.2 us; else they were read.
    """
    parts = _parts(trace, ChunkKind.GRAPHS)
    columns = _fields(parts, "topology", "token", "n_threads", missing={"token": NONE, "topology": NONE})
    columns["aborted"] = _flag(parts, GRAPH_ABORTED)
    columns["ends_seen"] = _flag(parts, GRAPH_ENDS_SEEN)
    return _table(parts, columns | _fields(parts, "n_groups", "n_dropped", "start_ns", "duration_ns"))


def op_definitions(trace: Trace) -> Table:
    """One row per op of each graph topology."""
    records = trace.records(ChunkKind.OP_DEFINITIONS)
    columns: dict[str, Column] = {}
    for name in ("topology", "node", "op", "op_type", "layer", "module", "backend", "buffer", "weight", "dtype"):
        missing = {"layer": -1, "topology": NONE}.get(name, "" if name in _TEXT_FIELDS else None)
        column: Column = FieldColumn((records,), name, missing)
        is_text = RECORDS[ChunkKind.OP_DEFINITIONS][name].kind == "S"
        columns[name] = DerivedColumn(column, decode_text, "") if is_text else column
    columns["shape"] = DerivedColumn(FieldColumn((records,), "shape"), shape_text)
    columns |= _fields((records,), "src_shape", "n_fused", "bytes_read", "bytes_written", "flops")
    columns["live_bytes"] = DerivedColumn(FieldColumn((records,), "live_bytes"), _positive)
    columns["src_dtype"] = DerivedColumn(FieldColumn((records,), "src_dtype"), _joined_text)
    columns["src_shape"] = DerivedColumn(FieldColumn((records,), "src_shape"), _joined_shapes)
    parts = trace.chunks(ChunkKind.OP_DEFINITIONS)
    return Table(columns, len(records), parts[0] if len(parts) == 1 else None)


def _positive(column: Records) -> Records:
    return np.where(column > 0, column, np.nan)


def _joined_text(column: Records) -> Records:
    return np.array([" ".join(decode_text(row)).strip() for row in column], object)


def _joined_shapes(column: Records) -> Records:
    return np.array([" ".join(shape_text(row)) for row in column], object)


def overhead(trace: Trace) -> Table:
    """One row per interleaved pair: the same step with op recording off and on."""
    parts = _parts(trace, ChunkKind.OVERHEAD)
    columns: dict[str, Column] = {"phase": _named(FieldColumn(parts, "phase"), Phase)}
    columns["on_first"] = DerivedColumn(FieldColumn(parts, "on_first"), lambda values: values != 0)
    return _table(parts, columns | _fields(parts, "n_tokens", "off_ns", "on_ns"))


def prompts(trace: Trace) -> Table:
    """One row per prompt token, in order, for replay."""
    parts = _parts(trace, ChunkKind.PROMPTS)
    return _table(parts, _fields(parts, "run", "token_id", missing={"run": NONE}))


def allocations(trace: Trace) -> Table:
    """One row per buffer of the runtime that comes or goes; a release has the `buffer_id` of its allocation."""
    parts = _parts(trace, ChunkKind.ALLOCATIONS)
    columns = _fields(parts, "time_ns")
    columns["category"] = _named(FieldColumn(parts, "category"), MemoryCategory)
    columns |= _fields(parts, "bytes")
    columns["event"] = _named(FieldColumn(parts, "event"), MemoryEvent)
    for name in ("backend", "buffer"):
        columns[name] = DerivedColumn(FieldColumn(parts, name), decode_text, "")
    return _table(parts, columns | _fields(parts, "buffer_id", missing={"buffer_id": NONE}))


def samples(trace: Trace) -> Table:
    """One row per reading; site, kind, unit and source are those of its channel."""
    parts = _parts(trace, ChunkKind.SAMPLES)
    channels = trace.records(ChunkKind.CHANNELS)
    numbers, rows = np.unique(channels["channel"], return_index=True)
    position = DerivedColumn(FieldColumn(parts, "channel"), lambda column: np.searchsorted(numbers, column))
    columns = _fields(parts, "time_ns")
    for name in ("site", "kind", "unit"):
        columns[name] = LookupColumn(position, decode_text(channels[name][rows]), "")
    columns |= _fields(parts, "value")
    columns["source"] = LookupColumn(position, decode_text(channels["source"][rows]), "")
    return _table(parts, columns)


def counters(trace: Trace) -> Table:
    """One row per counter that the ops table has; those that are absent are in the metadata with the reason."""
    parts = _parts(trace, ChunkKind.COUNTERS)
    columns: dict[str, Column] = {"name": DerivedColumn(FieldColumn(parts, "name"), decode_text, "")}
    columns["kind"] = _named(FieldColumn(parts, "kind"), CounterKind)
    columns["source"] = DerivedColumn(FieldColumn(parts, "source"), decode_text, "")
    return _table(parts, columns)


def switches(trace: Trace) -> Table:
    """One row per time that a computing thread lost its processor; `preempted`: it wanted to go on, else it waited."""
    parts = _parts(trace, ChunkKind.SWITCHES)
    columns = _fields(parts, "run", "thread", "start_ns", "duration_ns", missing={"run": NONE})
    columns["preempted"] = _flag(parts, SWITCH_PREEMPTED)
    return _table(parts, columns | _fields(parts, "cpu_before", "cpu_after"))


def ops(trace: Trace) -> Table:
    """One row per group, or op, and thread.

    `run` and `token` (the index in its run) come through the tokens table, what an op is through the op definitions.
    `disturbed` is there only where the trace knows: a thread of this group lost its processor within it. Behind it, the
    counters of level counters.
    """
    parts = _parts(trace, ChunkKind.OPS)
    tokens_ = trace.records(ChunkKind.TOKENS)
    token, op = FieldColumn(parts, "token"), FieldColumn(parts, "op")
    columns: dict[str, Column] = {
        "run": ContextColumn(trace.op_context, parts, 0, NONE),
        "token": LookupColumn(token, np.append(tokens_["index"], np.uint32(NONE)), NONE),
        "phase": LookupColumn(ContextColumn(trace.op_context, parts, 1), names_of(Phase), ""),
    }
    columns |= _fields(parts, "thread", "start_ns", "compute_ns", "wait_ns")
    definitions = op_definitions(trace)
    if not len(definitions):  # then there are no op records either: the reader leaves out what refers to nothing
        definitions = Table.from_arrays({name: np.array([""], object) for name in definitions.columns})
    columns["op"] = LookupColumn(op, definitions["op"], "")
    for name in ("op_type", "layer", "module", "backend", "buffer", "dtype", "shape"):
        columns[name] = LookupColumn(op, definitions[name], -1 if name == "layer" else "")
    for name in ("n_fused", "bytes_read", "bytes_written", "flops", "live_bytes"):
        columns[name] = LookupColumn(op, definitions[name])
    if disturbed_source(trace) is not None:
        columns["disturbed"] = DerivedColumn(FieldColumn(parts, "flags"), lambda flags: flags != 0)
    if trace.chunks(ChunkKind.OPS):  # else there are no records that would have them
        columns |= _fields(parts, *counter_names(trace))
    return _table(parts, columns)
