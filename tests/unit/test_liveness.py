"""Live activations: the peak of each phase, at which op, on traces whose every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fakes.trace_builder import TraceBuilder, definitions, rows_of
from melt_core.analysis.liveness import live_graphs, why_unknown
from melt_core.cli.main import main
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import NONE, RUN_WARMUP, ChunkKind, MemoryCategory, MemoryEvent, Phase

#: A file of format 1.0, which has no live bytes.
GOLDEN = Path(__file__).parents[1] / "golden/v1_0.melt"
#: Live bytes of the five ops of three topologies: of the warm-up, of prefill, of decode.
LIVE = ([900e6] * 5, [10e3, 40e3, 30e3, 40e3, 5e3], [1e3, 0.0, 3e3, 2e3, 1e3])


def live_trace(*, compute: bool = True, path: Path | None = None) -> Trace:
    """A warm-up, then one run of a prefill and two decode steps; op 1 of the decode graph has no known size."""
    builder = TraceBuilder()
    graph_ops = definitions()[:5]
    made = np.concatenate([graph_ops] * 3)
    made["topology"] = np.repeat([0, 1, 2], 5)
    made["live_bytes"] = np.concatenate(LIVE)
    tokens = [
        {"run": 0, "index": 0, "phase": Phase.PREFILL},
        {"run": 1, "index": 0, "phase": Phase.PREFILL},
        {"run": 1, "index": 1, "phase": Phase.DECODE},
        {"run": 1, "index": 2, "phase": Phase.DECODE},
    ]
    graphs = [{"topology": topology, "token": token, "n_threads": 1} for token, topology in enumerate((0, 1, 2, 2))]
    ops = [
        {"op": 5 * graphs[token]["topology"] + at, "graph": token, "token": token, "start_ns": 100 * token + 10 * at}
        | {"compute_ns": 10}
        for token in range(4)
        for at in range(5)
    ]
    rows = {
        ChunkKind.RUNS: [{"run": 0, "flags": RUN_WARMUP, "stop_reason": 1}, {"run": 1, "stop_reason": 1}],
        ChunkKind.TOKENS: tokens,
        ChunkKind.OPS: ops,
        ChunkKind.GRAPHS: graphs,
        ChunkKind.PHASES: [{"run": NONE, "phase": Phase.LOAD}],
    }
    if compute:
        event = {"bytes": 50_000, "category": MemoryCategory.COMPUTE, "event": MemoryEvent.ALLOCATED}
        rows[ChunkKind.ALLOCATIONS] = [event]
    builder.records(ChunkKind.OP_DEFINITIONS, made)
    for kind, values in rows.items():
        builder.records(kind, rows_of(kind, values))
    data = builder.finish()
    if path is not None:
        path.write_bytes(data)
    return Trace.from_bytes(data)


def test_the_graph_of_each_phase_that_needs_most() -> None:
    prefill, decode = live_graphs(live_trace())
    assert (prefill.phase, prefill.topology, len(prefill.ops)) == ("prefill", 1, 5)
    assert (prefill.peak.op, prefill.peak.op_type, prefill.peak.layer) == ("attn_q-0", "MUL_MAT", 0)
    assert prefill.buffer_ratio == pytest.approx(40e3 / 50e3)
    assert (decode.phase, decode.topology, decode.peak.live_bytes) == ("decode", 2, 3e3)
    assert [op.live_bytes for op in decode.ops] == [1e3, 3e3, 2e3, 1e3]  # what is not known is no 0
    assert why_unknown(live_trace()) is None


def test_without_level_memory_the_buffer_is_not_known() -> None:
    prefill, _ = live_graphs(live_trace(compute=False))
    assert (prefill.compute_bytes, prefill.buffer_ratio) == (None, None)
    assert prefill.to_json()["buffer_ratio"] is None


def test_what_has_no_live_activations_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(GOLDEN)
    old = Trace.open(GOLDEN)
    assert live_graphs(old) == []
    assert "format 1.0" in (why_unknown(old) or "")
    assert np.isnan(old.op_definitions["live_bytes"]).all()
    assert main(["memory", path, "--activations"]) == 1
    assert "no live activations: the trace is of format 1.0" in capsys.readouterr().err
    assert main(["ops", path]) == 0
    assert "missing: live activations" in capsys.readouterr().out
    builder = TraceBuilder()
    assert "--levels tokens,ops" in (why_unknown(Trace.from_bytes(builder.finish())) or "")
    builder = TraceBuilder()
    builder.records(ChunkKind.GRAPHS, rows_of(ChunkKind.GRAPHS, [{"topology": NONE, "token": NONE}]))
    assert "this runtime" in (why_unknown(Trace.from_bytes(builder.finish())) or "")


def test_key_averages_have_the_most_of_each_key() -> None:
    live = {row.key: row.live_bytes for row in live_trace().key_averages("op_type")}
    assert live == {"MUL_MAT": 40e3, "GET_ROWS": 10e3, "RMS_NORM+MUL": 5e3}  # the warm-up left out
    by_phase = {row.key: row.live_bytes for row in live_trace().key_averages("phase")}
    assert by_phase == {"prefill": 40e3, "decode": 3e3}
    assert [row.live_bytes for row in live_trace().key_averages("thread")] == [None]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live_trace(path=tmp_path / "l.melt")
    for command in (["ops"], ["memory"]):
        assert main([*command, str(tmp_path / "l.melt")]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "live activations, prefill: peak 40.0 kB at attn_q-0 (MUL_MAT), 80.0 % of the compute buffer's" in out
        assert "live activations, decode: peak 3.00 kB" in out
    assert main(["memory", str(tmp_path / "l.melt"), "--activations", "--json"]) == 0
    prefill, _ = json.loads(capsys.readouterr().out)
    assert prefill["peak_live_bytes"] == 40_000
    assert [op["live_bytes"] for op in prefill["ops"]] == [10_000, 40_000, 30_000, 40_000, 5_000]
    assert main(["memory", str(tmp_path / "l.melt"), "--activations"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 5 + 1 + 3 + 4
    assert max(map(len, lines)) <= 80
    assert [line.split()[:3:2] for line in lines[3:8]] == [
        ["40.0", "1"], ["40.0", "3"], ["30.0", "2"], ["10.0", "0"], ["5.00", "4"]
    ]  # fmt: skip


def test_the_largest_ops_of_a_graph_or_all_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "l.melt")
    live_trace(path=tmp_path / "l.melt")
    assert main(["memory", path, "--activations", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[3:5]] == ["1", "3"]
    assert lines[5] == "... 3 more of 5 ops: --all shows them in their order"
    assert main(["memory", path, "--activations", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[3:8]] == ["0", "1", "2", "3", "4"]
    for wrong in (["--top", "2"], ["--all"], ["--activations", "--top", "0"], ["--activations", "--top", "2", "--all"]):
        assert main(["memory", path, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_chrome_counter_and_report(tmp_path: Path) -> None:
    live_trace().export(tmp_path / "t.json", format="chrome")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    live = [(event["ts"], event["args"]["value"]) for event in events if event.get("name") == "activations/live [B]"]
    # One for each change: the warm-up is level; op 1 of the decode graph is not known.
    assert live == [
        (0.0, 900e6), (0.1, 10e3), (0.11, 40e3), (0.12, 30e3), (0.13, 40e3), (0.14, 5e3), (0.2, 1e3), (0.22, 3e3),
        (0.23, 2e3), (0.24, 1e3), (0.32, 3e3), (0.33, 2e3), (0.34, 1e3),
    ]  # fmt: skip
    page = "".join(render([live_trace(compute=False)]))
    assert "<h2>Live activations" in page
    assert "Live activations" not in "".join(render([Trace.open(GOLDEN)]))
