"""Level memory as tables, truth table, warnings and exports: on traces whose every number is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.trace_builder import TraceBuilder, rows_of, toy_trace
from melt_core.analysis.memory import live_bytes, memory_of
from melt_core.cli.main import main
from melt_core.errors import TraceError
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import NONE, ChunkKind, MemoryCategory, MemoryEvent, Phase

MS = 1_000_000
MB = 1_000_000
#: (site, kind, unit) -> readings as (ms, value). One run lasts from 100 to 300 ms.
READINGS = {
    ("process", "rss", "B"): [(50, 30 * MB), (150, 80 * MB), (250, 90 * MB), (290, 85 * MB)],
    ("machine", "steal", "s"): [(90, 0.0), (100, 1.0), (200, 1.01), (300, 1.02)],
    ("machine", "pressure_cpu", "s"): [(100, 0.0), (300, 0.1)],
    ("cpu0", "frequency", "Hz"): [(100, 1e9), (300, 2e9)],
    ("buffers/weights", "resident", "B"): [(300, 40 * MB)],
    ("buffers/kv", "resident", "B"): [(300, 10 * MB)],
    ("model_file", "resident", "B"): [(300, 1 * MB)],
    ("process", "rss_after_run", "B"): [(300, 85 * MB)],
    ("heap", "resident", "B"): [(300, 11 * MB)],
    ("program", "resident", "B"): [(300, 20 * MB)],
    ("process", "heap_after_run", "B"): [(300, 27 * MB)],
}


def memory_trace(
    *, path: Path | None = None, unknown_channel: bool = False, changed: dict[str, float | None] | None = None
) -> Trace:
    """A mapped model of 50 MB, a cache of 10, which was 20 for a while; 11 MB of heap beside; 20 of program.

    `changed` readings after the run have another value, or are missing: site/kind -> MB or None.
    """
    changed = changed or {}
    builder = TraceBuilder()
    builder.metadata(
        {
            "device": {"n_cpus": 2},
            "memory": {
                "rss_before_load_bytes": 15 * MB,
                "heap_before_load_bytes": 5 * MB,
            },
            "sensors": {"missing": {"process/pss": "no smaps_rollup here"}},
        }
    )
    events = [
        (1, 50, 0, MemoryCategory.WEIGHTS, MemoryEvent.MAPPED),
        (2, 20, 1, MemoryCategory.KV, MemoryEvent.ALLOCATED),
        (3, 20, 1, MemoryCategory.KV, MemoryEvent.RELEASED),
        (4, 10, 2, MemoryCategory.KV, MemoryEvent.ALLOCATED),
        (900, 10, 2, MemoryCategory.KV, MemoryEvent.RELEASED),
        (901, 50, 0, MemoryCategory.WEIGHTS, MemoryEvent.UNMAPPED),
    ]
    allocations = [
        {
            "time_ns": ms * MS, "bytes": size * MB, "buffer_id": number, "category": category, "event": event,
            "backend": b"CPU", "buffer": b"CPU",
        }
        for ms, size, number, category, event in events
    ]  # fmt: skip
    channels, samples = [], []
    for number, ((site, kind, unit), readings) in enumerate(READINGS.items(), start=7):
        other = changed.get(f"{site}/{kind}", 0.0)
        if other is None:
            continue
        if other:
            readings = [(300, other * MB)]
        text = {"site": site.encode(), "kind": kind.encode(), "unit": unit.encode(), "source": b"test"}
        channels.append({"channel": number, **text})
        samples += [{"time_ns": ms * MS, "value": value, "channel": number} for ms, value in readings]
    if unknown_channel:
        samples.append({"time_ns": 1, "value": 1.0, "channel": 99})
    run = {"run": 0, "start_ns": 100 * MS, "duration_ns": 200 * MS, "peak_rss_bytes": 95.0 * MB, "stop_reason": 1}
    phases = [
        {"run": NONE, "phase": Phase.LOAD, "start_ns": 0, "duration_ns": 60 * MS},
        {"run": 0, "phase": Phase.DECODE, "start_ns": 200 * MS, "duration_ns": 100 * MS},
    ]
    for kind, rows in (
        (ChunkKind.RUNS, [run]),
        (ChunkKind.PHASES, phases),
        (ChunkKind.ALLOCATIONS, allocations),
        (ChunkKind.CHANNELS, channels),
        (ChunkKind.SAMPLES, samples),
    ):
        builder.records(kind, rows_of(kind, rows))
    data = builder.finish()
    if path is not None:
        path.write_bytes(data)
    return Trace.from_bytes(data)


def test_the_tables_have_their_columns() -> None:
    trace = memory_trace()
    first, *_ = trace.allocations.to_dicts()
    assert first == {
        "time_ns": MS, "category": "weights", "bytes": 50 * MB, "event": "mapped", "backend": "CPU", "buffer": "CPU",
        "buffer_id": 0,
    }  # fmt: skip
    assert trace.samples.columns == ("time_ns", "site", "kind", "unit", "value", "source")
    assert trace.samples.to_dicts()[3] == {
        "time_ns": 290 * MS, "site": "process", "kind": "rss", "unit": "B", "value": 85e6, "source": "test",
    }  # fmt: skip
    empty = Trace.from_bytes(toy_trace())
    assert (len(empty.samples), len(empty.allocations)) == (0, 0)
    assert empty.samples.to_dicts() == empty.allocations.to_dicts() == []


def test_a_sample_of_an_unknown_channel_is_left_out() -> None:
    trace = memory_trace(unknown_channel=True)
    assert len(trace.samples) == sum(map(len, READINGS.values()))
    assert any("1 samples are of a channel" in warning for warning in trace.warnings)


def test_unknown_categories_and_events_are_named_so() -> None:
    builder = TraceBuilder()
    row = {"bytes": 1, "category": 77, "event": 99}
    builder.records(ChunkKind.ALLOCATIONS, rows_of(ChunkKind.ALLOCATIONS, [row]))
    (shown,) = Trace.from_bytes(builder.finish()).allocations.to_dicts()
    assert (shown["category"], shown["event"]) == ("unknown", "unknown")


def test_every_row_of_the_truth_table() -> None:
    account = memory_of(memory_trace())
    rows = {
        row.category: tuple(size and size / MB for size in (row.bytes, row.resident_bytes, row.peak_bytes))
        for row in account.rows
    }
    assert rows == {
        "weights": (50, 40, 50),
        "kv": (10, 10, 20),
        "model_file": (None, 1, None),
        "heap": (27 - 5 - 10, 11, None),
        "program": (None, 20, None),
        "unaccounted": (None, 85 - 40 - 10 - 1 - 11 - 20, None),
        "process": (None, 85, 95),
    }
    assert account.unaccounted_ratio == pytest.approx(3 / 85)
    assert account.phase_peak_rss_bytes == {"load": 30 * MB, "decode": 90 * MB}
    assert account.missing == {"process/pss": "no smaps_rollup here"}
    assert live_bytes(memory_trace())["kv"][1].tolist() == [20 * MB, 0, 10 * MB, 0]


def test_a_heap_that_gives_out_again_what_it_had_before_has_no_size_of_its_own() -> None:
    heap = {row.category: row for row in memory_of(memory_trace(changed={"process/heap_after_run": 9})).rows}["heap"]
    assert (heap.bytes, heap.resident_bytes) == (None, 11 * MB)


def test_without_the_page_table_nothing_is_said_to_be_unaccounted() -> None:
    account = memory_of(memory_trace(changed={"heap/resident": None, "program/resident": None}))
    assert "program" not in {row.category for row in account.rows}
    assert account.unaccounted_ratio is None
    # AND where only malloc does not say what it holds, its pages are nobody's
    account = memory_of(memory_trace(changed={"heap/resident": None, "process/heap_after_run": None}))
    assert "heap" not in {row.category for row in account.rows}
    assert account.unaccounted_ratio == pytest.approx(14 / 85)


def test_sizes_beyond_32_bits() -> None:
    builder = TraceBuilder()
    size = 5 << 32
    row = {"bytes": size, "category": MemoryCategory.KV, "event": MemoryEvent.ALLOCATED}
    builder.records(ChunkKind.ALLOCATIONS, rows_of(ChunkKind.ALLOCATIONS, [row, row]))
    kv = memory_of(Trace.from_bytes(builder.finish())).rows[0]
    assert (kv.bytes, kv.peak_bytes) == (2 * size, 2 * size)


def test_without_samples_what_is_unknown_is_none() -> None:
    builder = TraceBuilder()
    row = {"bytes": 5, "category": MemoryCategory.KV, "event": MemoryEvent.ALLOCATED}
    builder.records(ChunkKind.ALLOCATIONS, rows_of(ChunkKind.ALLOCATIONS, [row]))
    account = memory_of(Trace.from_bytes(builder.finish()))
    assert [row.category for row in account.rows] == ["kv", "unaccounted", "process"]
    assert account.rows[0].resident_bytes is None
    assert account.rows[1].resident_bytes is None
    assert account.unaccounted_ratio is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory_trace(path=tmp_path / "m.melt")
    assert main(["memory", str(tmp_path / "m.melt"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) == {"category", "bytes", "resident_bytes", "peak_bytes", "source"} for row in rows)
    assert [row["resident_bytes"] for row in rows if row["category"] == "unaccounted"] == [3 * MB]
    assert main(["memory", str(tmp_path / "m.melt")]) == 0
    out = capsys.readouterr().out
    assert "unaccounted: 3.5 %" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_trace_without_the_level_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.melt").write_bytes(toy_trace())
    assert main(["memory", str(tmp_path / "t.melt")]) == 1
    assert "--levels tokens,memory" in capsys.readouterr().err
    with pytest.raises(TraceError, match="without level memory"):
        memory_of(Trace.from_bytes(toy_trace()))


def test_interference_becomes_warnings() -> None:
    warnings = " ".join(memory_trace().summary().warnings)
    assert "hypervisor took 5.0%" in warnings  # 20 ms of 2 processors' 200 ms
    assert "for 50% of the runs some thread waited for a processor" in warnings
    assert "cpu0 ran between 1.00 and 2.00 GHz" in warnings
    assert "waited for memory" not in warnings


def test_chrome_counters_and_report(tmp_path: Path) -> None:
    memory_trace().export(tmp_path / "t.json", format="chrome")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    counters: list[dict[str, Any]] = [event for event in events if event["ph"] == "C"]
    assert len(counters) == sum(map(len, READINGS.values())) + 6
    assert {"process/rss [B]", "buffers/kv [B]"} <= {event["name"] for event in counters}
    memory_trace().export(tmp_path / "r.json", format="chrome", run=0)
    events = json.loads((tmp_path / "r.json").read_text())["traceEvents"]
    assert all(100_000 <= event["ts"] <= 300_000 for event in events if event["ph"] == "C")
    page = "".join(render([memory_trace()]))
    assert "Where the memory went" in page
    assert "memory over time" in page
    assert "Where the memory went" not in "".join(render([Trace.from_bytes(toy_trace())]))
