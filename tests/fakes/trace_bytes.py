"""The bytes of a small trace, ways to change them, and all the uses that any bytes have to bear."""

from __future__ import annotations

import io
import struct

from fakes.trace_builder import toy_trace
from melt_core.analysis.group import GROUP_KEYS
from melt_core.errors import TraceError
from melt_core.report import chrome, csv_, speedscope
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind

TOY = toy_trace()


def offsets(data: bytes) -> list[tuple[int, int, int]]:
    """Returns (offset, kind, end) of each chunk of a whole trace."""
    found, at = [], 64
    while at < len(data):
        _, kind, _, _, n_bytes, _, _ = struct.unpack_from("<IIIIQII", data, at)
        end = at + 32 + (n_bytes + 7) // 8 * 8
        found.append((at, kind, end))
        at = end
    return found


def offset_of(kind: ChunkKind) -> int:
    return next(at for at, found, _ in offsets(TOY) if found == kind)


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flipped(data: bytes, at: int) -> bytes:
    return with_bytes(data, at, bytes([data[at] ^ 0xFF]))


def exercise(data: bytes) -> Trace | None:
    """Opens and uses a trace in every way there is; only TraceError is allowed, and only on opening."""
    try:
        trace = Trace.from_bytes(data)
    except TraceError:
        return None
    for key in GROUP_KEYS:
        trace.key_averages(key)
    trace.summary().to_json()
    str(trace.summary())
    for name in ("runs", "phases", "tokens", "graphs", "ops", "op_definitions", "overhead", "prompts"):
        table = getattr(trace, name)
        table.to_dicts()
        repr(table)
    render([trace, trace]).encode("utf-8", "replace")
    for writer in (chrome.write, speedscope.write, csv_.write):
        writer(trace, io.BytesIO())
    return trace
