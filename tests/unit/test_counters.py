"""Counters and disturbed ops in a trace: every number worked out by hand, and files that say odd things."""

from __future__ import annotations

import csv
import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.needs import lacking
from fakes.trace_builder import METADATA, US, TraceBuilder, definitions, rows_of
from melt_core.cli.main import main
from melt_core.errors import TraceError
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import (
    NONE,
    OP,
    OP_MIGRATED,
    OP_PEER_DISTURBED,
    OP_SWITCHED,
    SWITCH_PREEMPTED,
    ChunkKind,
    Phase,
)

COUNTERS = ("cycles", "instructions", "llc_misses", "branch_misses", "minor_faults")
SOURCES = {name: f"perf {name}:u" for name in COUNTERS}
#: A graph of two ops (attn_q-0, ffn_up-0 of the toy definitions) on two threads, twice; then sampling. In the second
#: graph thread 1 loses its processor within ffn_up-0, so thread 0 waits for it.
#: (op, graph, thread, compute us, wait us, flags, counters)
OPS: list[tuple[int, int, int, int, int, int, tuple[float, ...]]] = [
    (1, 0, 0, 10, 0, 0, (1000, 2000, 10, 4, 1)),
    (1, 0, 1, 10, 0, 0, (1000, 2000, 10, 4, 0)),
    (2, 0, 0, 20, 0, 0, (4000, 2000, 30, 2, 0)),
    (2, 0, 1, 20, 0, 0, (4000, 2000, 30, 2, 0)),
    (1, 1, 0, 10, 0, 0, (1000, 2000, 10, 4, 0)),
    (1, 1, 1, 10, 0, 0, (np.nan, np.nan, np.nan, np.nan, np.nan)),
    (2, 1, 0, 20, 980, OP_PEER_DISTURBED, (9000, 1000, 40, 2, 0)),
    (2, 1, 1, 1000, 0, OP_SWITCHED | OP_MIGRATED, (4000, 2000, 30, 2, 7)),
    (6, NONE, 0, 5, 0, 0, (np.nan,) * 5),
]


def counter_rows(offset: int = OP.itemsize) -> Any:
    rows = [
        {"name": name.encode(), "source": SOURCES[name].encode(), "kind": 2 if "faults" in name else 1}
        | {"offset": offset + 8 * number}
        for number, name in enumerate(COUNTERS)
    ]
    return rows_of(ChunkKind.COUNTERS, rows)


def op_rows() -> Any:
    dtype = np.dtype([*((name, OP[name]) for name in OP.names or ()), *((name, "<f8") for name in COUNTERS)])
    rows = np.zeros(len(OPS), dtype)
    for row, (op, graph, thread, compute, wait, flags, counts) in zip(rows, OPS, strict=True):
        row["op"], row["graph"], row["thread"], row["flags"] = op, graph, thread, flags
        row["compute_ns"], row["wait_ns"], row["token"] = compute * US, wait * US, 0
        for name, count in zip(COUNTERS, counts, strict=True):
            row[name] = count
    return rows


def counted_trace(
    *, counters: Any = None, ops: Any = None, metadata: dict[str, Any] | None = None, damage: bool = False
) -> bytes:
    builder = TraceBuilder()
    noted = {
        "disturbed": {"source": "PERF_RECORD_SWITCH", "n_switches": 1, "n_lost": 0},
        "counters": {"present": SOURCES, "missing": {"major_faults": "it is not there", "migrations": "nor this"}},
    }
    builder.metadata(METADATA | (noted if metadata is None else metadata))
    if damage:
        before = len(b"".join(builder._parts))
    builder.records(ChunkKind.COUNTERS, counter_rows() if counters is None else counters)
    if damage:
        data = bytearray(b"".join(builder._parts))
        data[before + 40] ^= 0xFF
        builder._parts = [bytes(data)]
    builder.records(ChunkKind.OP_DEFINITIONS, definitions())
    builder.records(ChunkKind.OPS, op_rows() if ops is None else ops)
    graph = {"token": 0, "n_threads": 2, "n_groups": 2, "duration_ns": 30 * US}
    builder.records(ChunkKind.GRAPHS, rows_of(ChunkKind.GRAPHS, [graph, graph | {"duration_ns": 1010 * US}]))
    run = {"n_groups": 4, "n_records": 8, "n_graphs": 2, "n_output": 1, "n_prompt": 1, "n_threads": 2, "stop_reason": 1}
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [run | {"duration_ns": 2000 * US, "prefill_ns": 1}]))
    builder.records(ChunkKind.TOKENS, rows_of(ChunkKind.TOKENS, [{"phase": Phase.PREFILL, "duration_ns": 2000 * US}]))
    off = {"start_ns": 50 * US, "duration_ns": 900 * US, "thread": 1, "flags": SWITCH_PREEMPTED, "cpu_after": 1}
    builder.records(ChunkKind.SWITCHES, rows_of(ChunkKind.SWITCHES, [off]))
    return builder.finish()


@pytest.fixture
def trace() -> Trace:
    found = Trace.from_bytes(counted_trace())
    assert found.damage == []
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.melt"
    path.write_bytes(counted_trace())
    return path


class TestSums:
    def test_counters_are_summed_over_threads_where_they_were_read(self, trace: Trace) -> None:
        rows = {row["key"]: row for row in trace.key_averages().to_dicts()}
        product = rows["MUL_MAT"]
        assert product["cycles"] == 3 * 1000 + 3 * 4000 + 9000
        assert product["instructions"] == 6 * 2000 + 1000
        assert product["minor_faults"] == 1 + 7
        assert product["ipc"] == pytest.approx(13_000 / 24_000)
        assert product["llc_mpki"] == pytest.approx(1000 * (30 + 90 + 40) / 13_000)
        assert product["branch_mpki"] == pytest.approx(1000 * (12 + 6 + 2) / 13_000)
        assert product["disturbed"] == 1
        assert rows["SAMPLE"]["cycles"] is None  # not read, and so not 0
        assert rows["SAMPLE"]["ipc"] is None

    def test_disturbed_groups_are_left_out_with_all_their_threads(self, trace: Trace) -> None:
        (product, _) = trace.key_averages(exclude_disturbed=True).to_dicts()
        assert (product["count"], product["wall_ns"], product["compute_ns"]) == (3, 40 * US, 80 * US)
        assert product["cycles"] == 3 * 1000 + 2 * 4000
        assert product["disturbed"] == 1  # how many there were
        by_name = {row["key"]: row for row in trace.key_averages("name", exclude_disturbed=True).to_dicts()}
        assert by_name["ffn_up-0"]["ipc"] == 0.5
        assert by_name["attn_q-0"]["disturbed"] == 0

    @pytest.mark.parametrize("key", ["thread", "phase", "layer", "module"])
    def test_every_grouping_adds_up_to_the_same(self, trace: Trace, key: str) -> None:
        table = trace.key_averages(key)
        assert np.nansum(table["cycles"]) == 24_000
        assert table["disturbed"].sum() == (
            2 if key == "thread" else 1
        )  # a thread's own records, and those beside them

    def test_a_key_of_which_all_is_disturbed_is_still_shown(self) -> None:
        rows = op_rows()
        rows["flags"][rows["op"] == 2] = OP_SWITCHED
        trace = Trace.from_bytes(counted_trace(ops=rows))
        found = {row["key"]: row for row in trace.key_averages("name", exclude_disturbed=True).to_dicts()}
        assert (found["ffn_up-0"]["count"], found["ffn_up-0"]["disturbed"]) == (0, 2)
        assert found["ffn_up-0"]["cycles"] is None


class TestTables:
    def test_ops_have_marks_and_counters_behind_everything_else(self, trace: Trace) -> None:
        assert trace.ops.columns[-6:] == ("disturbed", *COUNTERS)
        assert trace.ops["disturbed"].tolist() == [False] * 6 + [True, True, False]
        assert trace.ops[0].cycles == 1000
        assert trace.ops[5].cycles is None
        assert trace.ops[5].op == "attn_q-0"

    def test_counters_and_switches_are_tables(self, trace: Trace) -> None:
        assert trace.counters.to_dicts()[0] == {"name": "cycles", "kind": "hardware", "source": "perf cycles:u"}
        (off,) = trace.switches.to_dicts()
        assert off["preempted"]
        assert (off["run"], off["thread"], off["duration_ns"]) == (0, 1, 900 * US)
        assert (off["cpu_before"], off["cpu_after"]) == (0, 1)

    def test_summary_tells_both(self, trace: Trace) -> None:
        found = trace.summary().to_json()
        assert found["disturbed"] == {
            "groups": 1,
            "of_groups": 4,
            "switches": 1,
            "migrations": 1,
            "source": "PERF_RECORD_SWITCH",
            "reason": None,
        }
        assert found["counters"]["phases"]["prefill"]["ipc"] == pytest.approx(13 / 24)
        assert found["counters"]["missing"] == {"major_faults": "it is not there", "migrations": "nor this"}
        assert any("--no-disturbed" in warning for warning in found["warnings"])
        text = str(trace.summary())
        assert "1 of 4 op groups (25.0 %)" in text
        assert "major_faults: it is not there" in text

    def test_trouble_is_a_warning(self) -> None:
        noted = {
            "disturbed": {"source": "PERF_RECORD_SWITCH", "n_switches": 1, "n_lost": 3},
            "counters": {"n_scaled": 2, "not_counted_threads": {"1": "too many open files"}},
        }
        warnings = Trace.from_bytes(counted_trace(metadata=noted)).summary().warnings
        assert any("3 or more context switches" in warning for warning in warnings)
        assert any("2 op records are scaled" in warning for warning in warnings)
        assert any("thread 1 was not counted: too many open files" in warning for warning in warnings)


class TestCommand:
    def test_ops_say_how_many_were_disturbed(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ops", str(path)]) == 0
        assert "disturbed: 1 of 5 op groups, counted" in capsys.readouterr().out
        assert main(["ops", str(path), "--no-disturbed"]) == 0
        assert "disturbed: 1 of 5 op groups, left out" in capsys.readouterr().out
        assert main(["ops", str(path), "--no-disturbed", "--json"]) == 0
        assert [row["disturbed"] for row in json.loads(capsys.readouterr().out)] == [1, 0]

    def test_counters_are_shown_with_what_is_absent(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ops", str(path), "--counters", "--json"]) == 0
        (product, sample) = json.loads(capsys.readouterr().out)
        assert list(product)[:6] == ["key", "count", "wall_ns", "ipc", "llc_mpki", "branch_mpki"]
        assert sample["cycles"] is None
        assert main(["ops", str(path), "--counters"]) == 0
        out = capsys.readouterr().out
        assert "absent: major_faults: it is not there" in out
        assert all(len(line) <= 80 for line in out.splitlines())

    @pytest.mark.parametrize(("option", "reason"), [("--counters", "level counters"), ("--no-disturbed", "not known")])
    def test_a_trace_without_is_a_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, reason: str
    ) -> None:
        path = tmp_path / "t.melt"
        path.write_bytes(counted_trace(metadata={}, ops=op_rows()[list(OP.names or ())], counters=counter_rows()[:0]))
        assert main(["ops", str(path), option]) == 1
        assert reason in capsys.readouterr().err

    def test_nothing_counted_is_a_reason(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "t.melt"
        noted = {"counters": {"missing": {"cycles": "no driver"}}, "disturbed": {"reason": "no perf events"}}
        path.write_bytes(counted_trace(metadata=noted, counters=counter_rows()[:0]))
        assert main(["ops", str(path), "--counters"]) == 1
        assert "nothing could be counted: no driver" in capsys.readouterr().err
        assert main(["ops", str(path)]) == 0
        assert "disturbed: not known: no perf events" in capsys.readouterr().out
        with pytest.raises(TraceError, match="no perf events"):
            Trace.open(path).key_averages(exclude_disturbed=True)


class TestExports:
    def test_csv_and_chrome(self, trace: Trace, tmp_path: Path) -> None:
        trace.export(tmp_path / "t.csv", format="csv")
        rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
        assert [row["cycles"] for row in rows][:6] == ["1000.0", "1000.0", "4000.0", "4000.0", "1000.0", ""]
        assert rows[6]["disturbed"] == "True"
        trace.export(tmp_path / "t.json", format="chrome")
        events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
        ops = [event for event in events if event.get("cat") == "op"]
        assert ops[0]["args"]["cycles"] == 1000
        assert "cycles" not in ops[5]["args"]  # unknown, and JSON has no NaN
        assert ops[7]["args"]["disturbed"] is True
        (off,) = [event for event in events if event.get("cat") == "off cpu"]
        assert (off["name"], off["ts"], off["dur"]) == ("preempted", 50.0, 900.0)
        assert {event["tid"] for event in ops}.isdisjoint({off["tid"]})

    def test_parquet(self, trace: Trace, tmp_path: Path) -> None:
        if find_spec("pyarrow") is None:
            lacking("pyarrow is not installed: pip install 'melt_core[store]'")
        parquet = import_module("pyarrow.parquet")
        trace.export(tmp_path / "t.parquet", format="parquet")
        table = parquet.read_table(tmp_path / "t.parquet")
        assert table["cycles"].to_pylist()[:2] == [1000.0, 1000.0]
        assert table["disturbed"].to_pylist() == trace.ops["disturbed"].tolist()

    def test_report(self, trace: Trace) -> None:
        page = render([trace])
        assert "What the counters say" in page
        assert "it is not there" in page
        assert "1 of 4 op groups" in page


class TestOddFiles:
    def test_a_counter_beyond_the_record_is_not_known(self) -> None:
        rows = counter_rows()
        rows["offset"][-1] = 4096
        trace = Trace.from_bytes(counted_trace(counters=rows))
        assert np.isnan(trace.ops["minor_faults"]).all()
        assert trace.ops[0].cycles == 1000

    def test_short_records_have_no_counters(self) -> None:
        trace = Trace.from_bytes(counted_trace(ops=op_rows()[list(OP.names or ())].astype(OP)))
        assert np.isnan(trace.ops["cycles"]).all()
        assert trace.ops["compute_ns"].tolist() == [row[3] * US for row in OPS]
        assert trace.key_averages()[0].cycles is None

    @pytest.mark.parametrize(
        ("field", "value"),
        [("name", b"compute_ns"), ("name", b"no name"), ("name", b""), ("offset", 8), ("offset", OP.itemsize + 4)],
    )
    def test_a_definition_that_cannot_be_is_left_out(self, field: str, value: Any) -> None:
        rows = counter_rows()
        rows[field][1] = value
        trace = Trace.from_bytes(counted_trace(counters=rows))
        assert len([text for text in trace.damage if "cannot be, and was left out" in text]) == 1
        assert trace.ops.columns[-4:] == tuple(name for name in COUNTERS if name != "instructions")
        assert trace.ops[0].cycles == 1000

    def test_many_definitions_take_no_memory(self) -> None:
        rows = np.repeat(counter_rows(), 1000)
        rows["name"] = [f"counter{n}".encode() for n in range(len(rows))]
        rows["offset"] = OP.itemsize + 8 * np.arange(len(rows))
        trace = Trace.from_bytes(counted_trace(counters=rows))
        assert len(trace.ops.columns) < 40
        trace.summary()

    def test_damaged_definitions_cost_the_counters_only(self) -> None:
        trace = Trace.from_bytes(counted_trace(damage=True))
        assert len(trace.damage) == 1
        assert trace.ops["compute_ns"].tolist() == [row[3] * US for row in OPS]
        assert "cycles" not in trace.ops.columns
        trace.summary()

    def test_every_cut_reads(self) -> None:
        data = counted_trace()
        for end in range(64, len(data), 13):
            trace = Trace.from_bytes(data[:end])
            trace.key_averages()
            trace.summary().to_json()
            trace.ops.to_dicts()
