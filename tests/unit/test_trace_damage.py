"""Reading a trace that is cut or damaged: what is whole is there, and a line says what is not."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from fakes import trace_builder
from fakes.trace_builder import TraceBuilder, chunk, file_header, rows_of
from fakes.trace_bytes import TOY, exercise, flipped, offset_of, offsets, with_bytes
from melt_core.errors import TraceError
from melt_core.trace import Trace
from melt_core.trace import format as fmt
from melt_core.trace.format import NONE, OP, TOKEN, ChunkKind


def test_every_flipped_byte_is_noticed() -> None:
    # WHEN any single byte of a trace changes
    silent = []
    for at in range(len(TOY)):
        try:
            trace = Trace.from_bytes(flipped(TOY, at))
        except TraceError:
            continue
        if not trace.damage:
            silent.append(at)
    # THEN never is it accepted without a word
    assert silent == []


def test_every_cut_gives_the_whole_chunks_before_it() -> None:
    ends = [end for _, _, end in offsets(TOY)]
    for size in range(64, len(TOY)):
        trace = Trace.from_bytes(TOY[:size])
        n_whole = sum(len(records) for kind in fmt.RECORDS for records in trace.chunks(ChunkKind(kind)))
        assert trace.damage
        assert not trace.complete
        if size == ends[-2]:  # all but the end chunk
            assert n_whole == sum(map(len, (trace.runs, trace.phases, trace.tokens, trace.graphs))) + 147 + 7 + 12 + 32


def test_cut_inside_the_header_is_refused() -> None:
    for size in range(1, 64):
        with pytest.raises(TraceError):
            Trace.from_bytes(TOY[:size])


def test_a_damaged_chunk_costs_only_itself() -> None:
    # GIVEN one wrong byte in the payload of the phases
    trace = Trace.from_bytes(flipped(TOY, offset_of(ChunkKind.PHASES) + 40))
    # THEN they are gone, the rest is there and one line says so
    assert (len(trace.phases), len(trace.ops), len(trace.damage)) == (0, 147, 1)
    assert "damaged chunk" in trace.damage[0]


def test_lost_op_definitions_do_not_shift_the_others() -> None:
    # GIVEN definitions in two chunks of which the first is damaged
    builder = TraceBuilder()
    defs = trace_builder.definitions()
    builder.records(ChunkKind.OP_DEFINITIONS, defs[:3])
    at = len(b"".join(builder._parts)) - 10
    builder.records(ChunkKind.OP_DEFINITIONS, defs[3:])
    rows = np.zeros(2, OP)
    rows["op"], rows["graph"], rows["token"], rows["compute_ns"] = [1, 3], NONE, NONE, 5
    builder.records(ChunkKind.OPS, rows)
    trace = Trace.from_bytes(flipped(builder.finish(), at))
    # THEN an op of the second keeps its name, and one of the first has none rather than a wrong one
    assert trace.ops["op"].tolist() == ["(lost)", "attn_q-1"]
    assert trace.ops["op_type"].tolist() == ["LOST", "MUL_MAT"]


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_damaged_chunk_header_is_restored(width: int) -> None:
    # WHEN up to eight bytes of any one chunk header are wrong
    whole = Trace.from_bytes(TOY)
    for at, kind, _ in offsets(TOY):
        for where in range(at, at + 32, width):
            junk = bytes(byte ^ 0x5A for byte in TOY[where : where + width])
            if where + width > at + 32:
                continue
            trace = Trace.from_bytes(with_bytes(TOY, where, junk))
            # THEN nothing is lost, and a line says so
            hit_both_checksums = where < at + 28 < where + width
            if not hit_both_checksums:
                assert len(trace.damage) == 1, (kind, where - at, trace.damage)
                assert "restored" in trace.damage[0]
                assert trace.key_averages().to_dicts() == whole.key_averages().to_dicts()


def test_ops_whose_graphs_were_cut_off_are_kept() -> None:
    # GIVEN a recorder that writes graphs behind their ops, and was killed between
    builder = TraceBuilder()
    builder.records(ChunkKind.OP_DEFINITIONS, trace_builder.definitions())
    builder.records(ChunkKind.TOKENS, rows_of(ChunkKind.TOKENS, [{"run": NONE}]))
    builder.records(ChunkKind.OPS, rows_of(ChunkKind.OPS, [{"op": 1, "graph": 0}, {"op": 1, "graph": 1}]))
    cut = b"".join(builder._parts)
    trace = exercise(cut)
    assert trace is not None
    assert (len(trace.ops), len(trace.graphs)) == (2, 2)
    assert "2 graphs were cut off; their ops are there" in trace.damage
    # whereas in a trace that was closed in order there is no excuse
    assert len(Trace.from_bytes(builder.finish()).ops) == 0


def test_behind_a_chunk_of_unknown_kind_nothing_is_attributed_wrongly() -> None:
    # GIVEN the header of the first op definitions destroyed, so that nobody knows how many there were
    builder = TraceBuilder()
    at = len(b"".join(builder._parts))
    defs = trace_builder.definitions()
    builder.records(ChunkKind.OP_DEFINITIONS, defs[:3])
    builder.records(ChunkKind.OP_DEFINITIONS, defs[3:])
    rows = np.zeros(1, OP)
    rows["op"], rows["graph"], rows["token"] = 1, NONE, NONE
    builder.records(ChunkKind.OPS, rows)
    trace = Trace.from_bytes(with_bytes(builder.finish(), at, b"\xaa" * 32))
    # THEN records that refer to them are left out, with a word
    assert len(trace.ops) == 0
    assert any("cannot be numbered" in line for line in trace.damage)


@pytest.mark.parametrize("field", ["op", "graph", "token"])
def test_op_records_that_refer_to_nothing_are_left_out(field: str) -> None:
    # GIVEN sound checksums but one reference out of range
    at = offset_of(ChunkKind.OPS)
    count = struct.unpack_from("<I", TOY, at + 12)[0]
    rows = np.frombuffer(TOY, OP, count, at + 32).copy()
    rows[field][7] = 1_000_000
    data = TOY[:at] + chunk(ChunkKind.OPS, rows.tobytes(), 40, count) + TOY[at + 32 + len(rows.tobytes()) :]
    trace = Trace.from_bytes(data)
    assert len(trace.ops) == count - 1
    assert len(trace.damage) == 1


def test_tokens_of_no_run_stay_in_place() -> None:
    builder = TraceBuilder()
    rows = np.zeros(3, TOKEN)
    rows["run"] = [0, 9, NONE]
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [{"run": 0}]))
    builder.records(ChunkKind.TOKENS, rows)
    trace = Trace.from_bytes(builder.finish())
    assert [row.run for row in trace.tokens] == [0, None, None]
    assert trace.damage == ["1 rows of tokens refer to a run that is not in the trace"]


@pytest.mark.parametrize(
    "payload",
    [
        b"[1]",
        b"{",
        b"\xff\xfe",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a":' * 40 + b"1" + b"}" * 40,
    ],
)
def test_impossible_metadata_is_left_out(payload: bytes) -> None:
    data = file_header() + chunk(ChunkKind.METADATA, payload) + chunk(ChunkKind.END, b"")
    trace = Trace.from_bytes(data)
    assert trace.metadata == {}
    assert len(trace.damage) == 1


def test_metadata_is_made_harmless() -> None:
    payload = rb'{"a": NaN, "b": -Infinity, "c": 1e999, "d": "\ud800", "model": [1], "runtime": 3, "warnings": 5}'
    data = file_header() + chunk(ChunkKind.METADATA, payload) + chunk(ChunkKind.END, b"")
    trace = exercise(data)
    assert trace is not None
    assert [trace.metadata[key] for key in "abcd"] == [None, None, None, "?"]
    assert trace.warnings == ["5"]


def test_a_lying_record_count_takes_no_memory() -> None:
    # GIVEN a header that claims 4 billion records in a payload that is not there
    head = struct.pack("<4sIIIQI", b"CHNK", ChunkKind.OP_DEFINITIONS, 464, NONE, 464 * NONE, 0)
    data = file_header() + head + struct.pack("<I", zlib.crc32(head)) + bytes(100)
    assert len(Trace.from_bytes(data).op_definitions) == 0
    # and records of no size, or of less than any version had
    for size, count in ((0, 10), (1, 100)):
        data = file_header() + chunk(ChunkKind.OPS, bytes(size * count), size, count) + chunk(ChunkKind.END, b"")
        trace = Trace.from_bytes(data)
        assert len(trace.ops) == 0
        assert "cannot be" in trace.damage[0]


def test_warnings_are_bounded() -> None:
    bad = chunk(ChunkKind.METADATA, b"[]") * 5_000
    assert len(Trace.from_bytes(file_header() + bad + chunk(ChunkKind.END, b"")).damage) == 101


def test_bytes_behind_the_end_are_mentioned() -> None:
    assert "after the end" in Trace.from_bytes(TOY + b"more").damage[0]
