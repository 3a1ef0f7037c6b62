"""The journal of runs, and putting what the host saw on the trace's time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from melt_core.devices.journal import Entry, Journal, new_run_name
from melt_core.devices.observing import additions
from melt_core.devices.state_dir import host_id, state_dir
from melt_core.errors import InvalidArgumentError

S = 1_000_000_000


def entry(run: str, **values: Any) -> Entry:
    made: dict[str, Any] = {
        "run": run, "uri": "local", "request": {"model": "m", "seed": 1}, "output": "/o", "model": "/m",
        "model_sha256": "", "metadata": {}, "started_wall_s": 1.0,
    }  # fmt: skip
    return Entry(**{**made, **values})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "runs")


def test_entries_come_back_in_order_and_go(journal: Journal) -> None:
    second, first = entry("b", started_wall_s=1.0), entry("a", started_wall_s=2.0)
    for one in (first, second):
        journal.add(one)
    assert journal.entries() == [second, first]
    journal.remove("b")
    journal.remove("b")
    assert journal.entries() == [first]
    assert journal.find("b") is None


def test_requests_are_compared_as_a_whole() -> None:
    one = entry("a")
    assert one.asks_the_same("local", {"seed": 1, "model": "m"})
    assert not one.asks_the_same("adb:1", {"seed": 1, "model": "m"})
    assert not one.asks_the_same("local", {"seed": 2, "model": "m"})


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "-x", "a" * 65, "a\n"])
def test_no_name_leads_out(journal: Journal, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        journal.find(name)


def test_damaged_entries_are_passed_over(journal: Journal, tmp_path: Path) -> None:
    journal.add(entry("good"))
    for name, text in (("cut", '{"run": "cut"'), ("other", '{"run": "good"}'), ("types", '{"run": 3}')):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "entry.json").write_text(text)
    assert [one.run for one in journal.entries()] == ["good"]


def test_notes_survive_a_line_that_was_cut(journal: Journal, tmp_path: Path) -> None:
    journal.add(entry("a"))
    journal.note("a", {"at": 1})
    journal.note("a", {"at": 2})
    with (tmp_path / "runs/a/samples.jsonl").open("a") as file:
        file.write('{"at": 3, "readi')
    assert [line["at"] for line in journal.notes("a")] == [1, 2]
    assert list(journal.notes("b")) == []


def test_one_process_follows_a_run(journal: Journal) -> None:
    journal.add(entry("a"))
    with journal.attended("a"), pytest.raises(InvalidArgumentError, match="another process"), journal.attended("a"):
        pass
    with journal.attended("a"):
        pass


def test_run_names_differ() -> None:
    assert len({new_run_name() for _ in range(100)}) == 100


def test_state_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELT_STATE_DIR", str(tmp_path / "state"))
    assert host_id() == host_id()
    assert state_dir().stat().st_mode & 0o77 == 0


# On the trace's time


def clock_note(
    host_s: float, *, offset_ns: int = 5 * S, wall: int = 100 * S, boot: str = "h", device: str = "d"
) -> Any:
    send = int(host_s * S)
    times = {"send": send, "device": send + 50_000 + offset_ns, "receive": send + 100_000}
    return {
        "clock": {**times, "wall_minus_steady": wall},
        "boot": boot,
        "device_boot": device,
    }  # fmt: skip


def reading_note(host_s: float, value: float, boot: str = "h") -> Any:
    return {
        "at": int(host_s * S), "took": 1000, "boot": boot,
        "absent": [["x", "why"]], "facts": {"a": "b"}, "notes": ["n"],
        "readings": [["soc", "power", "W", "test", value]],
    }  # fmt: skip


def test_samples_are_put_on_the_traces_time() -> None:
    # GIVEN a device 5 s ahead whose trace began at 12 s of its clock, that is at 7 s here
    notes = [clock_note(6), reading_note(7.25, 1.5), reading_note(8, 2.5), clock_note(9)]
    added = additions(notes, trace_wall_ns=112 * S, trace_zero_ns=12 * S, telemetry_s=1.0)
    (series,) = added.series
    assert series.times_ns == [int(0.25 * S), S]
    assert series.values == [1.5, 2.5]
    assert added.metadata["clock_alignment"]["offset_ns"] == 5 * S
    assert added.metadata["telemetry"]["missing"] == {"x": "why"}
    assert "warnings" not in added.metadata
    # AND without the status's zero the wall clock gives the same
    by_wall = additions(notes, trace_wall_ns=112 * S, trace_zero_ns=None, telemetry_s=1.0)
    assert by_wall.series == added.series


def test_a_host_that_was_restarted_keeps_both_parts() -> None:
    notes = [
        clock_note(6), reading_note(8, 1.0),
        clock_note(1, offset_ns=12 * S, boot="later"), reading_note(2, 2.0, boot="later"),
    ]  # fmt: skip
    (series,) = additions(notes, trace_wall_ns=0, trace_zero_ns=12 * S, telemetry_s=1.0).series
    assert series.times_ns == [S, 2 * S]


@pytest.mark.parametrize(
    ("notes", "options", "reason"),
    [
        ([reading_note(8, 1.0)], {}, "never read"),
        ([clock_note(6), reading_note(8, 1.0)], {"is_simulated": True}, "simulated"),
        ([clock_note(6), clock_note(7, device="after a restart"), reading_note(8, 1.0)], {}, "never read"),
        ([clock_note(6), clock_note(7, wall=300 * S), reading_note(8, 1.0)], {"trace_zero_ns": None}, "not known"),
    ],
)
def test_what_cannot_be_placed_is_left_out_and_said(notes: list[Any], options: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {"trace_wall_ns": 112 * S, "trace_zero_ns": 12 * S, "telemetry_s": 1.0, **options}
    added = additions(notes, **values)
    assert not added.series
    assert reason in added.metadata["clock_alignment"]["missing"]
    assert any("left out" in text for text in added.metadata["warnings"])


def test_what_a_device_says_is_kept_up_to_a_bound(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melt_core.devices.journal._MAX_SAMPLES_BYTES", 1000)
    journal.add(entry("a"))
    for number in range(1000):
        journal.note("a", {"n": number})
    kept = [line["n"] for line in journal.notes("a")]
    assert kept == list(range(len(kept)))
    assert 50 < len(kept) < 200


def test_a_device_with_endless_channels_fills_no_trace() -> None:
    clock = {"boot": "h", "device_boot": "d"}
    notes = [
        {**clock, "clock": {"send": n * S, "device": n * S, "receive": n * S + 1000, "wall_minus_steady": 0}}
        for n in range(3)
    ]
    readings = [[f"site-{n}", "temperature", "degC", "x", 1.0] for n in range(5000)]
    added = additions(
        [*notes, {"boot": "h", "at": S, "readings": readings}], trace_wall_ns=0, trace_zero_ns=0, telemetry_s=1
    )
    assert len(added.series) == 1000
