"""Chrome's JSON trace format, for ui.perfetto.dev (open the file there; nothing is uploaded) or chrome://tracing.

One process per trace; tracks: phases, tokens, one per thread, one per thread for the times without a processor (level
ops), counters of level memory, live activations op by op. What level counters counted is among the arguments of an op.
Events are complete ("X"), times in us since the trace began. A wait at a barrier is a slice of its own, behind the op
that waits. A slice ends at the latest where the next one of its track begins: Perfetto drops slices that overlap in
part, and in a trace whose start and duration were rounded apart they do, by 1 ns.
Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_channels import Supply, supplies_of
from melt_core.analysis.memory import live_bytes
from melt_core.analysis.samples import series_of
from melt_core.report._rows import op_tables
from melt_core.trace.metadata import text
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.table import Table
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

_PID = 1
_LIVE = "activations/live [B]"
_PHASES, _TOKENS, _FIRST_THREAD, _FIRST_OFF_CPU = 1, 2, 10, 100_000  # a trace has 16-bit thread numbers
_OF_THE_OP = ("op_type", "layer", "module", "backend", "buffer", "dtype", "shape", "n_fused")
_NUMBERS_OF_THE_OP = ("bytes_read", "bytes_written", "flops", "live_bytes")


def write(trace: Trace, file: BinaryIO, *, run: int | None = None) -> None:
    """Writes `trace`, or one run of it, to `file`, event by event."""
    file.write(b'{"displayTimeUnit": "ns", "traceEvents": [\n')
    separator = b""
    for lines in _blocks(trace, run):
        if lines:
            file.write(separator + ",\n".join(lines).encode())
            separator = b",\n"
    other = json.dumps({"metadata": trace.metadata, "warnings": trace.warnings}, allow_nan=False)
    file.write(b'\n], "otherData": ' + other.encode() + b"}\n")


def _blocks(trace: Trace, run: int | None) -> Iterator[list[str]]:
    model = text(trace.metadata, "model", "name") or "trace"
    runtime = text(trace.metadata, "runtime", "name")
    yield [
        _name("process_name", 0, f"{model} ({runtime})" if runtime else model),
        *_track(_PHASES, "phases"),
        *_track(_TOKENS, "tokens"),
    ]
    yield list(_phase_events(trace, run))
    yield list(_token_events(trace, run))
    yield list(_counter_events(trace, run))
    yield list(_off_cpu_events(trace, run))
    threads: set[int] = set()
    limits, done = _op_limits(trace, run), 0
    for table in op_tables(trace, run=run):
        threads.update(table["thread"].tolist())
        yield list(_op_events(table, limits[done : done + len(table)].tolist()))
        done += len(table)
    yield [line for thread in sorted(threads) for line in _track(_FIRST_THREAD + thread, f"thread {thread}")]


def _name(kind: str, tid: int, name: str) -> str:
    return json.dumps({"ph": "M", "pid": _PID, "tid": tid, "name": kind, "args": {"name": name}})


def _track(tid: int, name: str) -> list[str]:
    order = {"ph": "M", "pid": _PID, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}
    return [_name("thread_name", tid, name), json.dumps(order)]


def _slice(tid: int, name: str, category: str, start_ns: int, end_ns: int, args: str) -> str:
    return (
        f'{{"ph":"X","pid":{_PID},"tid":{tid},"ts":{_us(start_ns)},"dur":{_us(max(end_ns - start_ns, 0))},'
        f'"cat":"{category}","name":{name},"args":{args}}}'
    )


def _us(time_ns: int) -> str:
    """Returns microseconds with all their nanoseconds, exactly."""
    sign, size = ("-", -time_ns) if time_ns < 0 else ("", time_ns)
    return f"{sign}{size // 1000}.{size % 1000:03d}"


def _phase_events(trace: Trace, run: int | None) -> Iterator[str]:
    for row, end_ns in _clipped(trace.phases):
        if run is None or row.run in (None, run):
            args = json.dumps({"run": row.run})
            yield _slice(_PHASES, json.dumps(row.phase or "?"), "phase", row.start_ns, end_ns, args)


def _token_events(trace: Trace, run: int | None) -> Iterator[str]:
    for row, end_ns in _clipped(trace.tokens):
        if run is None or row.run == run:
            args = {"run": row.run, "index": row.index, "token_id": row.token_id, "n_tokens": row.n_tokens}
            name = json.dumps(f"token {row.index}")
            yield _slice(_TOKENS, name, row.phase or "?", row.start_ns, end_ns, json.dumps(args))


def _clipped(table: Table, *, track: str | None = None) -> Iterator[tuple[Any, int]]:
    """Yields each row with its end, which is not beyond the next row's start on the same track."""
    start_ns = table["start_ns"].astype(np.int64)
    end_ns = start_ns + table["duration_ns"].astype(np.int64)
    tracks = np.zeros(len(table), np.int64) if track is None else table[track].astype(np.int64)
    yield from zip(table, np.minimum(end_ns, _next_starts(tracks, start_ns, end_ns)).tolist(), strict=True)


def _next_starts(tracks: Array, start_ns: Array, end_ns: Array) -> Array:
    """Returns, for each slice, when the next one of its track begins; the last of a track has no limit."""
    order = np.lexsort((end_ns, start_ns, tracks))  # of those that begin together, the longest keeps its time
    limits = np.full(len(order), np.iinfo(np.int64).max)
    same = tracks[order[1:]] == tracks[order[:-1]]
    limits[order[:-1][same]] = start_ns[order[1:][same]]
    return limits


def _op_limits(trace: Trace, run: int | None) -> Array:
    """Returns the next starts of the op records, in the order in which `op_tables` yields them."""
    ops = trace.ops
    if run is not None:
        ops = ops[ops["run"] == run]
    thread, start_ns = ops["thread"].astype(np.int64), ops["start_ns"].astype(np.int64)
    end_ns = start_ns + ops["compute_ns"].astype(np.int64) + ops["wait_ns"].astype(np.int64)
    return _next_starts(thread, start_ns, end_ns)


def _counter_events(trace: Trace, run: int | None) -> Iterator[str]:
    """Yields samples, and the runtime's buffers by category, as counter tracks."""
    start_ns, end_ns = _interval(trace, run)
    for name, series in series_of(trace).items():
        shown = series if run is None else series.between(start_ns, end_ns)
        for time_ns, value in zip(shown.time_ns.tolist(), shown.values.tolist(), strict=True):
            yield _counter(f"{name} [{series.unit}]", time_ns, value)
    for supply in supplies_of(trace)[0]:
        if supply.is_counter:  # a running total only ever rises: what it says is its slope
            yield from _power_counter(supply, start_ns if run is not None else None, end_ns)
    for category, (times, sizes) in live_bytes(trace).items():
        for time_ns, size in zip(times.tolist(), sizes.tolist(), strict=True):
            if run is None or start_ns <= time_ns <= end_ns:
                yield _counter(f"buffers/{category} [B]", time_ns, size)


def _power_counter(supply: Supply, start_ns: int | None, end_ns: int) -> Iterator[str]:
    power = np.diff(supply.values) / np.maximum(np.diff(supply.time_ns), 1) * NS_PER_S
    for time_ns, value in zip(supply.time_ns[1:].tolist(), power.tolist(), strict=True):
        if value >= 0 and (start_ns is None or start_ns <= time_ns <= end_ns):
            yield _counter(f"{supply.name}, derived power [W]", time_ns, value)


def _interval(trace: Trace, run: int | None) -> tuple[int, int]:
    rows = [row for row in trace.runs if row.run == run]
    return (rows[0].start_ns, rows[0].start_ns + rows[0].duration_ns) if rows else (0, 0)


def _counter(name: str, time_ns: int, value: float) -> str:
    return f'{{"ph":"C","pid":{_PID},"ts":{_us(time_ns)},"name":{json.dumps(name)},"args":{{"value":{value!r}}}}}'


def _off_cpu_events(trace: Trace, run: int | None) -> Iterator[str]:
    """Yields when each computing thread had no processor, on tracks of their own: they do not nest with ops."""
    threads = set()
    for row, end_ns in _clipped(trace.switches, track="thread"):
        if run is not None and row.run != run:
            continue
        if row.thread not in threads:
            threads.add(row.thread)
            yield from _track(_FIRST_OFF_CPU + row.thread, f"thread {row.thread} off its processor")
        args = json.dumps({"cpu_before": row.cpu_before, "cpu_after": row.cpu_after})
        name = '"preempted"' if row.preempted else '"waiting"'
        yield _slice(_FIRST_OFF_CPU + row.thread, name, "off cpu", row.start_ns, end_ns, args)


def _op_events(table: Table, limits_ns: list[int]) -> Iterator[str]:
    known: dict[Any, tuple[str, str]] = {}
    live: float | None = None
    first, last = table.columns.index("op"), table.columns.index("live_bytes") + 1
    own = table.columns[last:]  # marks and counters
    for row, limit_ns in zip(table, limits_ns, strict=True):
        key = row[first:last]  # all that the op definition says, and nothing of this one execution
        if key not in known:
            known[key] = (json.dumps(row.op or "?"), _op_args(row))
        name, args = known[key]
        if own:
            values = {column: value for column, value in zip(own, row[last:], strict=True) if _is_sound(value)}
            args = (args[:-1] + ", " + json.dumps(values)[1:]) if values else args
        tid = _FIRST_THREAD + row.thread
        if row.thread == 0 and row.live_bytes is not None and row.live_bytes != live:
            live = row.live_bytes
            yield _counter(_LIVE, row.start_ns, live)
        computed_ns = row.start_ns + row.compute_ns
        yield _slice(tid, name, "op", row.start_ns, min(computed_ns, limit_ns), args)
        if row.wait_ns > 0 and computed_ns < limit_ns:
            yield _slice(tid, '"wait"', "wait", computed_ns, min(computed_ns + row.wait_ns, limit_ns), "{}")


def _op_args(row: Any) -> str:
    args = {name: getattr(row, name) for name in (*_OF_THE_OP, *_NUMBERS_OF_THE_OP)}
    return json.dumps({name: value for name, value in args.items() if _is_sound(value)}, allow_nan=False)


def _is_sound(value: Any) -> bool:
    """Returns whether JSON can hold the value; None is a missing one."""
    return value is not None and value not in _INFINITE


_INFINITE = (float("inf"), float("-inf"))
