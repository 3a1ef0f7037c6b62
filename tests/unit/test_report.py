"""Exports and reports: valid for the tool that opens them, right in their numbers, and safe."""

from __future__ import annotations

import csv
import html.parser
import json
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fakes.needs import lacking
from fakes.trace_builder import METADATA, TraceBuilder, definitions, rows_of, toy_trace
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.report import human, report
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind

VOID = {"meta", "br"}


def overlapping_trace() -> Trace:
    """Returns the toy trace as older cores wrote some: start and duration rounded apart, so that slices overlap."""
    whole, builder = Trace.from_bytes(toy_trace()), TraceBuilder()
    builder.metadata(METADATA)
    builder.records(ChunkKind.OP_DEFINITIONS, definitions())
    for kind in (ChunkKind.RUNS, ChunkKind.PHASES, ChunkKind.TOKENS, ChunkKind.GRAPHS, ChunkKind.OPS):
        rows = whole.records(kind).copy()
        if kind in (ChunkKind.PHASES, ChunkKind.TOKENS):
            rows["duration_ns"] += 1
        if kind == ChunkKind.OPS:
            rows["wait_ns"][rows["wait_ns"] > 0] += 1
            rows["compute_ns"][::3] += 1
            rows = rows[::-1]  # nor need they come in order of time
        builder.records(kind, rows)
    return Trace.from_bytes(builder.finish())


def slices_of_tracks(path: Path) -> list[list[tuple[int, int]]]:
    """Returns start and end of the slices of each track, in whole ns, as they lie in a Chrome export."""
    tracks: dict[int, list[tuple[int, int]]] = {}
    for event in json.loads(path.read_text(), parse_float=Decimal)["traceEvents"]:
        if event["ph"] == "X":
            start_ns, duration_ns = (int(event[name] * 1000) for name in ("ts", "dur"))
            tracks.setdefault(event["tid"], []).append((start_ns, start_ns + duration_ns))
    return list(tracks.values())


def overlaps_in_part(slices: list[tuple[int, int]]) -> bool:
    """Tells whether two slices neither nest nor are disjoint."""
    open_until: list[int] = []
    for start_ns, end_ns in sorted(slices, key=lambda each: (each[0], -each[1])):
        while open_until and open_until[-1] <= start_ns:
            open_until.pop()
        if open_until and end_ns > open_until[-1]:
            return True
        open_until.append(end_ns)
    return False


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_bytes(toy_trace())


class TestChrome:
    @pytest.fixture
    def events(self, trace: Trace, tmp_path: Path) -> list[dict[str, Any]]:
        trace.export(tmp_path / "t.json", format="chrome")
        found: list[dict[str, Any]] = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
        return found

    def test_every_record_is_a_slice(self, events: list[dict[str, Any]]) -> None:
        by_category: dict[str, int] = {}
        for event in events:
            by_category[event.get("cat", event["ph"])] = by_category.get(event.get("cat", event["ph"]), 0) + 1
        n_waits = 130  # the graph ops; host ops wait for nobody, and have no live activations
        slices = {"phase": 13, "prefill": 4, "decode": 9, "op": 147, "wait": n_waits}
        assert by_category == {"M": 1 + 2 * 4, **slices, "C": n_waits // 2}

    def test_times_are_exact_microseconds(self, events: list[dict[str, Any]]) -> None:
        op = next(event for event in events if event["name"] == "attn_q-0" and event["tid"] == 11)
        assert (op["ts"], op["dur"]) == (5022.0, 9.5)
        assert op["args"] | {"op_type": "MUL_MAT", "layer": 0, "shape": "1x64", "flops": 4000.0} == op["args"]

    def test_slices_of_a_track_nest(self, events: list[dict[str, Any]]) -> None:
        tracks: dict[int, list[tuple[float, float]]] = {}
        for event in events:
            if event["ph"] == "X":
                tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
        for slices in tracks.values():
            ordered = sorted(slices)
            assert all(first[1] <= second[0] + 1e-6 for first, second in pairwise(ordered))

    @pytest.mark.parametrize("run", [None, 2])
    def test_slices_that_overlap_in_the_trace_end_where_the_next_begins(self, run: int | None, tmp_path: Path) -> None:
        # GIVEN slices that overlap by 1 or 2 ns, in the trace
        trace = overlapping_trace()
        ops = trace.ops[trace.ops["thread"] == 1]
        starts = ops["start_ns"].astype(int)
        raw = list(zip(starts, starts + ops["compute_ns"] + ops["wait_ns"], strict=True))
        assert overlaps_in_part(raw)
        # THEN they do not in the file, and none is lost
        trace.export(tmp_path / "t.json", format="chrome", run=run)
        tracks = slices_of_tracks(tmp_path / "t.json")
        assert not any(map(overlaps_in_part, tracks))
        assert all(end_ns > start_ns for slices in tracks for start_ns, end_ns in slices)
        n_ops = sum(run is None or row.run == run for row in trace.ops)
        assert sum(map(len, tracks[2:])) == n_ops + sum(
            row.wait_ns > 0 and (run is None or row.run == run) for row in trace.ops
        )

    def test_one_run_only(self, trace: Trace, tmp_path: Path) -> None:
        trace.export(tmp_path / "t.json", format="chrome", run=2)
        events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
        assert sum(event.get("cat") == "op" for event in events) == 3 * 11 + 1


class TestSpeedscope:
    def test_profiles_add_up_to_the_threads_time(self, trace: Trace, tmp_path: Path) -> None:
        trace.export(tmp_path / "t.json", format="speedscope")
        found = json.loads((tmp_path / "t.json").read_text())
        assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
        ops = trace.ops
        for thread, profile in enumerate(found["profiles"]):
            mine = ops[ops["thread"] == thread]
            span = int((mine["start_ns"] + mine["compute_ns"] + mine["wait_ns"]).max() - mine["start_ns"].min())
            assert (profile["type"], profile["unit"], profile["endValue"]) == ("sampled", "nanoseconds", span)
            assert sum(profile["weights"]) == span
            assert len(profile["samples"]) == len(profile["weights"])
            n_frames = len(found["shared"]["frames"])
            assert all(0 <= frame < n_frames for sample in profile["samples"] for frame in sample)

    def test_slices_that_overlap_in_the_trace_do_not_move_what_follows(self, tmp_path: Path) -> None:
        trace = overlapping_trace()
        trace.export(tmp_path / "t.json", format="speedscope")
        ops = trace.ops
        for thread, profile in enumerate(json.loads((tmp_path / "t.json").read_text())["profiles"]):
            mine = ops[ops["thread"] == thread]
            span = int((mine["start_ns"] + mine["compute_ns"] + mine["wait_ns"]).max() - mine["start_ns"].min())
            assert sum(profile["weights"]) == profile["endValue"] == span
            assert min(profile["weights"]) > 0


class TestTables:
    def test_csv(self, trace: Trace, tmp_path: Path) -> None:
        trace.export(tmp_path / "t.csv", format="csv")
        rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
        assert len(rows) == 147
        assert (rows[0]["op"], rows[0]["layer"], rows[0]["flops"]) == ("tokenize", "", "")
        assert sum(int(row["compute_ns"]) for row in rows) == int(trace.ops["compute_ns"].sum())

    def test_parquet(self, trace: Trace, tmp_path: Path) -> None:
        if find_spec("pyarrow") is None:
            lacking("pyarrow is not installed: pip install 'melt_core[store]'")
        parquet = import_module("pyarrow.parquet")
        trace.export(tmp_path / "t.parquet", format="parquet")
        table = parquet.read_table(tmp_path / "t.parquet")
        assert table.column_names == list(trace.ops.columns)
        assert table["op"].to_pylist() == trace.ops["op"].tolist()

    def test_bad_use(self, trace: Trace, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match="choose one of chrome, speedscope, csv, parquet"):
            trace.export(tmp_path / "t", format="pdf")
        with pytest.raises(InvalidArgumentError, match="runs 0 to 3"):
            trace.export(tmp_path / "t", format="csv", run=4)
        with pytest.raises(StorageError):
            trace.export(tmp_path / "none" / "t", format="csv")


class _Checker(html.parser.HTMLParser):
    """Collects what a page refers to, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.tags
    assert checker.references == []
    assert "http" not in page
    assert "@import" not in page
    return checker


class TestHtml:
    def test_one_trace(self, trace: Trace, tmp_path: Path) -> None:
        report(trace, tmp_path / "r.html")
        text = " ".join(check((tmp_path / "r.html").read_text()).text)
        for expected in ("toy-1M q4_0", "84.0", "0.50 % slower (95 % CI +0.20 to +0.80 %)", "100.00% of graph time"):
            assert expected in text
        for title in (
            "Where the time goes",
            "Layer by layer",
            "One token, thread by thread",
            "The ops that take longest",
        ):
            assert title in text

    def test_several_traces_are_compared(self, trace: Trace) -> None:
        text = " ".join(check(render([trace, trace])).text)
        assert "2 traces, side by side" in text
        assert "x 1.00" in text
        assert "The metadata of all traces is the same" in text

    def test_an_empty_trace_has_a_report_too(self) -> None:
        text = " ".join(check(render(Trace.from_bytes(TraceBuilder().finish()))).text)
        assert "the trace holds no runs" in text

    def test_no_trace(self) -> None:
        with pytest.raises(InvalidArgumentError):
            render([])

    def test_everything_is_escaped(self) -> None:
        # GIVEN markup wherever a trace holds text
        evil = "\"'><script>alert(1)</script>"
        nested = {key: dict.fromkeys(value, evil) for key, value in METADATA.items() if isinstance(value, dict)}
        builder = TraceBuilder()
        builder.metadata({**nested, evil: {evil: evil}, "warnings": [evil]})
        defs = definitions()
        defs["op"] = defs["op_type"] = defs["module"] = evil[:15].encode()
        whole = Trace.from_bytes(toy_trace())
        builder.records(ChunkKind.OP_DEFINITIONS, defs)
        for kind in (ChunkKind.RUNS, ChunkKind.PHASES, ChunkKind.TOKENS, ChunkKind.GRAPHS, ChunkKind.OPS):
            builder.records(kind, whole.records(kind))
        trace = Trace.from_bytes(builder.finish())
        # THEN none of it becomes a tag
        page = render([trace, whole])
        check(page)
        assert "<script" not in page


class TestText:
    def test_summary_fits_80_columns_and_always_has_the_overhead(self, trace: Trace) -> None:
        empty = Trace.from_bytes(TraceBuilder().finish())
        long = TraceBuilder()
        long.metadata({"model": {"name": "x" * 300}, "warnings": ["y" * 300, "z " * 200]})
        long.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [{"run": 0}]))
        for each in (trace, empty, Trace.from_bytes(long.finish())):
            text = str(each.summary())
            assert max(map(len, text.splitlines())) <= 80
            assert "overhead, decode" in text

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (human.time_ns(0), "0 ns"),
            (human.time_ns(999.6), "1.00 us"),
            (human.time_ns(12_345_678), "12.3 ms"),
            (human.time_ns(-1_500), "-1.50 us"),
            (human.time_ns(float("nan")), "-"),
            (human.size_bytes(1_234_567_890), "1.23 GB"),
            (human.count(None), "-"),
            (human.count(86.1e9), "86.1 G"),
            (human.percent(0.1234), "12.3 %"),
            (human.percent(0.0), "0.0 %"),
            (human.percent(0.0003), "<0.1 %"),
            (human.percent(0.0006), "0.1 %"),
            (human.disturbed(21, 64890, None), "21 of 64890 op groups (<0.1 %): a thread lost its processor"),
            (human.overhead(None, None), "not measured"),
            (human.overhead(1.01, (1.005, 1.015)), "1.00 % faster (95 % CI -1.50 to -0.50 %)"),
            (human.overhead(0.999, (0.99, 1.01)), "0.10 % slower (95 % CI -1.00 to +1.00 %: no difference seen)"),
        ],
    )
    def test_numbers_for_people(self, text: str, expected: str) -> None:
        assert text == expected
