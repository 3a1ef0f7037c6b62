"""Reading a trace: its structs, whole, newer, older, and on a disk."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import trace_builder
from fakes.trace_builder import TraceBuilder, chunk, file_header
from fakes.trace_bytes import TOY, offsets
from melt_core.errors import StorageError, TraceError
from melt_core.trace import Trace
from melt_core.trace import format as fmt
from melt_core.trace.format import NONE, OP, TOKEN, ChunkKind


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
