"""Reading bytes of any kind: a trace or a TraceError, and a trace can be used in every way there is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.trace_builder import chunk
from fakes.trace_bytes import TOY, exercise, offsets
from melt_core.errors import MeltError, TraceError
from melt_core.trace import Trace


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A trace with bytes changed, cut, doubled or removed; sometimes with its checksums made right again."""
    data = bytearray(TOY)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        action = draw(st.sampled_from(["set", "cut", "remove", "insert", "double"]))
        n = draw(st.integers(1, 64))
        if action == "set":
            data[at : at + 8] = draw(st.binary(min_size=1, max_size=8))
        elif action == "cut":
            del data[at:]
        elif action == "remove":
            del data[at : at + n]
        elif action == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=64))
        else:
            data[at:at] = data[at : at + n]
    return bytes(data)


@st.composite
def resealed(draw: st.DrawFn) -> bytes:
    """A trace with sound checksums whose records hold anything: what a broken recorder might write."""
    parts = [TOY[:64]]
    extreme = st.sampled_from([b"\xff", b"\x00", b"\x7f", b"\x80", b"\x01"])
    for at, kind, _ in offsets(TOY):
        size, count, n_bytes = struct.unpack_from("<IIQ", TOY, at + 8)
        payload = bytearray(TOY[at + 32 : at + 32 + n_bytes])
        if payload and draw(st.booleans()):
            for _ in range(draw(st.integers(1, 6))):
                where = draw(st.integers(0, len(payload) - 1))
                n = draw(st.sampled_from([1, 2, 4, 8]))
                payload[where : where + n] = (draw(extreme) * n)[: len(payload) - where]
            payload = payload[:n_bytes]
        if draw(st.integers(0, 9)):  # sometimes a chunk is missing
            parts.append(chunk(kind, bytes(payload), size, count))
    return b"".join(parts)


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=mutations())
def test_mutated_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        trace = Trace.from_bytes(data)
    except TraceError:
        return
    assert data == TOY or trace.damage
    trace.key_averages("layer")
    trace.summary().to_json()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=mutations())
def test_mutated_traces_can_be_used(data: bytes) -> None:
    exercise(data)


@settings(max_examples=160, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=resealed())
def test_sealed_nonsense_can_be_used(data: bytes) -> None:
    exercise(data)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MeltError):
        Trace.from_bytes(data)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_behind_a_header_are_read(data: bytes) -> None:
    assert Trace.from_bytes(TOY[:64] + data).damage
