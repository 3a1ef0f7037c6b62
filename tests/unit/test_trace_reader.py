"""Reading a trace: whole, cut, damaged, newer, older, and bytes of any kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import trace_builder
from fakes.trace_builder import TraceBuilder, chunk, file_header, rows_of, toy_trace
from melt_core.analysis.group import GROUP_KEYS
from melt_core.errors import MeltError, StorageError, TraceError
from melt_core.report import chrome, csv_, speedscope
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace import format as fmt
from melt_core.trace.format import NONE, OP, TOKEN, ChunkKind

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


class TestStructs:
    @pytest.mark.parametrize(
        ("dtype", "size"),
        [
            (fmt.FILE_HEADER, 64),
            (fmt.CHUNK_HEADER, 32),
            (fmt.RUN, 80),
            (fmt.PHASE, 24),
            (fmt.TOKEN, 40),
            (fmt.GRAPH, 40),
            (fmt.OP_DEFINITION, 464),
            (fmt.OP, 40),
            (fmt.OVERHEAD, 24),
            (fmt.PROMPT, 8),
        ],
    )
    def test_size_is_that_of_the_cpp_struct(self, dtype: np.dtype[Any], size: int) -> None:
        assert dtype.itemsize == size

    def test_fields_are_those_of_the_cpp_header(self) -> None:
        # GIVEN the structs of trace_format.h, in their order
        header = Path(__file__).parents[2] / "cpp/include/melt/trace_format.h"
        structs: dict[str, list[str]] = {}
        name = ""
        for line in header.read_text().splitlines():
            code = line.split("//")[0].strip()
            if code.startswith("struct "):
                name = code.split()[1]
                structs[name] = []
            elif code == "};":
                name = ""
            elif name and code.endswith(";"):
                structs[name].append(code.rstrip(";").split()[1].split("[")[0])
        # THEN each dtype has the same names in the same order
        twins = {
            "FileHeader": fmt.FILE_HEADER,
            "ChunkHeader": fmt.CHUNK_HEADER,
            "RunRecord": fmt.RUN,
            "PhaseRecord": fmt.PHASE,
            "TokenRecord": fmt.TOKEN,
            "GraphRecord": fmt.GRAPH,
            "OpDefinition": fmt.OP_DEFINITION,
            "OpRecord": fmt.OP,
            "OverheadRecord": fmt.OVERHEAD,
            "PromptRecord": fmt.PROMPT,
            "AllocationRecord": fmt.ALLOCATION,
            "ChannelRecord": fmt.CHANNEL,
            "SampleRecord": fmt.SAMPLE,
            "CounterRecord": fmt.COUNTER,
            "SwitchRecord": fmt.SWITCH,
        }
        assert {name: list(dtype.names or ()) for name, dtype in twins.items()} == structs


class TestWhole:
    def test_everything_is_there_and_nothing_is_wrong(self) -> None:
        trace = Trace.from_bytes(TOY)
        assert trace.complete
        assert trace.damage == []
        assert trace.warnings == ["the governor could not be read"]
        sizes = [len(table) for table in (trace.runs, trace.tokens, trace.graphs, trace.ops, trace.prompts)]
        assert sizes == [4, 13, 13, 13 * 10 + 13 + 4, 32]

    def test_records_of_one_chunk_are_not_copied(self, tmp_path: Path) -> None:
        path = tmp_path / "toy.melt"
        path.write_bytes(TOY)
        records = Trace.open(path).ops.records
        assert records is not None
        assert not records.flags.owndata
        assert not records.flags.writeable

    def test_chunks_of_one_kind_follow_each_other(self) -> None:
        # GIVEN op records in three chunks
        builder = TraceBuilder()
        builder.records(ChunkKind.OP_DEFINITIONS, trace_builder.definitions())
        for start in (0, 10, 20):
            rows = np.zeros(10, OP)
            rows["start_ns"], rows["graph"], rows["token"] = np.arange(start, start + 10), NONE, NONE
            builder.records(ChunkKind.OPS, rows)
        ops = Trace.from_bytes(builder.finish()).ops
        # THEN the table is all of them, and rows across the seams are right
        assert ops["start_ns"].tolist() == list(range(30))
        assert ops[8:22]["start_ns"].tolist() == list(range(8, 22))
        assert ops[::-7]["start_ns"].tolist() == [29, 22, 15, 8, 1]
        assert ops[25].start_ns == 25
        assert ops.records is None

    def test_save_writes_the_same_bytes(self, tmp_path: Path) -> None:
        Trace.from_bytes(TOY).save(tmp_path / "copy.melt")
        assert (tmp_path / "copy.melt").read_bytes() == TOY
        assert [path.name for path in tmp_path.iterdir()] == ["copy.melt"]

    def test_metadata_chunks_merge_and_warnings_join(self) -> None:
        builder = TraceBuilder()
        builder.metadata({"a": 1, "b": {"x": 1}, "warnings": ["one"]})
        builder.metadata({"b": 2, "warnings": ["two"]})
        trace = Trace.from_bytes(builder.finish())
        assert trace.metadata == {"a": 1, "b": 2, "warnings": ["one", "two"]}


class TestDamage:
    def test_every_flipped_byte_is_noticed(self) -> None:
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

    def test_every_cut_gives_the_whole_chunks_before_it(self) -> None:
        ends = [end for _, _, end in offsets(TOY)]
        for size in range(64, len(TOY)):
            trace = Trace.from_bytes(TOY[:size])
            n_whole = sum(len(records) for kind in fmt.RECORDS for records in trace.chunks(ChunkKind(kind)))
            assert trace.damage
            assert not trace.complete
            if size == ends[-2]:  # all but the end chunk
                assert (
                    n_whole == sum(map(len, (trace.runs, trace.phases, trace.tokens, trace.graphs))) + 147 + 7 + 12 + 32
                )

    def test_cut_inside_the_header_is_refused(self) -> None:
        for size in range(1, 64):
            with pytest.raises(TraceError):
                Trace.from_bytes(TOY[:size])

    def test_a_damaged_chunk_costs_only_itself(self) -> None:
        # GIVEN one wrong byte in the payload of the phases
        trace = Trace.from_bytes(flipped(TOY, offset_of(ChunkKind.PHASES) + 40))
        # THEN they are gone, the rest is there and one line says so
        assert (len(trace.phases), len(trace.ops), len(trace.damage)) == (0, 147, 1)
        assert "damaged chunk" in trace.damage[0]

    def test_lost_op_definitions_do_not_shift_the_others(self) -> None:
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
    def test_a_damaged_chunk_header_is_restored(self, width: int) -> None:
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

    def test_ops_whose_graphs_were_cut_off_are_kept(self) -> None:
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

    def test_behind_a_chunk_of_unknown_kind_nothing_is_attributed_wrongly(self) -> None:
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
    def test_op_records_that_refer_to_nothing_are_left_out(self, field: str) -> None:
        # GIVEN sound checksums but one reference out of range
        at = offset_of(ChunkKind.OPS)
        count = struct.unpack_from("<I", TOY, at + 12)[0]
        rows = np.frombuffer(TOY, OP, count, at + 32).copy()
        rows[field][7] = 1_000_000
        data = TOY[:at] + chunk(ChunkKind.OPS, rows.tobytes(), 40, count) + TOY[at + 32 + len(rows.tobytes()) :]
        trace = Trace.from_bytes(data)
        assert len(trace.ops) == count - 1
        assert len(trace.damage) == 1

    def test_tokens_of_no_run_stay_in_place(self) -> None:
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
    def test_impossible_metadata_is_left_out(self, payload: bytes) -> None:
        data = file_header() + chunk(ChunkKind.METADATA, payload) + chunk(ChunkKind.END, b"")
        trace = Trace.from_bytes(data)
        assert trace.metadata == {}
        assert len(trace.damage) == 1

    def test_metadata_is_made_harmless(self) -> None:
        payload = rb'{"a": NaN, "b": -Infinity, "c": 1e999, "d": "\ud800", "model": [1], "runtime": 3, "warnings": 5}'
        data = file_header() + chunk(ChunkKind.METADATA, payload) + chunk(ChunkKind.END, b"")
        trace = exercise(data)
        assert trace is not None
        assert [trace.metadata[key] for key in "abcd"] == [None, None, None, "?"]
        assert trace.warnings == ["5"]

    def test_a_lying_record_count_takes_no_memory(self) -> None:
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

    def test_warnings_are_bounded(self) -> None:
        bad = chunk(ChunkKind.METADATA, b"[]") * 5_000
        assert len(Trace.from_bytes(file_header() + bad + chunk(ChunkKind.END, b"")).damage) == 101

    def test_bytes_behind_the_end_are_mentioned(self) -> None:
        assert "after the end" in Trace.from_bytes(TOY + b"more").damage[0]


class TestVersions:
    def test_newer_major_says_what_to_do(self) -> None:
        with pytest.raises(TraceError, match=r"format 2\.1 .* pip install -U melt_core"):
            Trace.from_bytes(file_header(major=2) + TOY[64:])

    def test_newer_minor_with_longer_header_and_records_is_read(self) -> None:
        # GIVEN format 1.7: a longer header, records with a field more, and a kind nobody knows
        parts = [file_header(minor=7, header_bytes=80), chunk(4711, b"what is this")]
        for at, kind, end in offsets(TOY):
            count, size = struct.unpack_from("<I", TOY, at + 12)[0], struct.unpack_from("<I", TOY, at + 8)[0]
            payload = TOY[at + 32 : at + 32 + size * count]
            if size:
                longer = b"".join(payload[n * size : (n + 1) * size] + b"\xaa" * 12 for n in range(count))
                parts.append(chunk(kind, longer, size + 12, count))
            else:
                parts.append(TOY[at:end])
        newer, plain = Trace.from_bytes(b"".join(parts)), Trace.from_bytes(TOY)
        # THEN what is known of it reads the same
        assert newer.damage == ["written in the newer format 1.7: what it added to 1.1 is not shown"]
        assert newer.ops.to_dicts() == plain.ops.to_dicts()
        assert newer.key_averages().to_dicts() == plain.key_averages().to_dicts()
        assert newer.summary().to_json()["stats"] == plain.summary().to_json()["stats"]

    def test_fields_that_shorter_records_lack_are_zero(self) -> None:
        rows = np.zeros(2, TOKEN)
        rows["run"], rows["token_id"], rows["duration_ns"] = NONE, 5, 7
        short = b"".join(row.tobytes()[:32] for row in rows)
        data = file_header() + chunk(ChunkKind.TOKENS, short, 32, 2) + chunk(ChunkKind.END, b"")
        tokens = Trace.from_bytes(data).tokens
        assert tokens["token_id"].tolist() == [5, 5]
        assert tokens["duration_ns"].tolist() == [0, 0]


class TestFiles:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"cannot read .*none\.melt: No such file"):
            Trace.open(tmp_path / "none.melt")

    def test_directory_and_odd_paths(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError):
            Trace.open(tmp_path)
        with pytest.raises(StorageError):
            Trace.open("a\0b")
        with pytest.raises(TraceError, match="not a regular file"):
            Trace.open("/dev/null")

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.melt").touch()
        with pytest.raises(TraceError, match="is empty"):
            Trace.open(tmp_path / "empty.melt")

    def test_full_disk_leaves_the_old_file(self, tmp_path: Path) -> None:
        import resource

        # GIVEN a file, and room for 1000 bytes only
        path = tmp_path / "old.melt"
        path.write_bytes(b"old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(StorageError, match="cannot write"):
                Trace.from_bytes(TOY).save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        # THEN it is as it was, and nothing else lies around
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_unwritable_places(self, tmp_path: Path) -> None:
        trace = Trace.from_bytes(TOY)
        for path in (tmp_path, tmp_path / "none" / "x.melt", Path("/proc/x.melt")):
            with pytest.raises(StorageError):
                trace.save(path)

    def test_a_link_is_followed_and_a_mode_kept(self, tmp_path: Path) -> None:
        real, link = tmp_path / "real.melt", tmp_path / "link.melt"
        real.write_bytes(b"old")
        real.chmod(0o640)
        link.symlink_to(real)
        Trace.from_bytes(TOY).save(link)
        assert link.is_symlink()
        assert real.read_bytes() == TOY
        assert real.stat().st_mode & 0o777 == 0o640


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


class TestAnyBytes:
    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=mutations())
    def test_mutated_bytes_are_read_or_refused(self, data: bytes) -> None:
        try:
            trace = Trace.from_bytes(data)
        except TraceError:
            return
        assert data == TOY or trace.damage
        trace.key_averages("layer")
        trace.summary().to_json()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=mutations())
    def test_mutated_traces_can_be_used(self, data: bytes) -> None:
        exercise(data)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=resealed())
    def test_sealed_nonsense_can_be_used(self, data: bytes) -> None:
        exercise(data)

    @settings(max_examples=500, deadline=None)
    @given(data=st.binary(max_size=200))
    def test_random_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(MeltError):
            Trace.from_bytes(data)

    @settings(max_examples=500, deadline=None)
    @given(data=st.binary(max_size=300))
    def test_random_bytes_behind_a_header_are_read(self, data: bytes) -> None:
        assert Trace.from_bytes(TOY[:64] + data).damage
