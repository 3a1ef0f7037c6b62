"""Ceilings as data: JSON, look-up, what of the cache may be used, and the table."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from melt_core.analysis.ceiling_checks import ceiling_doubts
from melt_core.analysis.ceilings import FLOPS, READ_BANDWIDTH, AbsentCeiling, Ceiling, Ceilings
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.profiling import ceilings as measuring
from melt_core.profiling.ceilings import load_ceilings, save_ceilings
from melt_core.report.ceilings import format_ceilings
from melt_core.runtime.machine import build_info, device_info

MIB = 1 << 20
NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def read(level: str, size: int, n_threads: int, value: float) -> Ceiling:
    return Ceiling(READ_BANDWIDTH, level, size, n_threads, value, "B/s", value * 0.9, value, 30)


def rate(family: str, n_threads: int, value: float) -> Ceiling:
    return Ceiling(FLOPS, family, None, n_threads, value, "flop/s", value * 0.9, value, 30)


def make(**changes: Any) -> Ceilings:
    rows = []
    for n in (1, 2, 4):
        rows += [
            read("L2", n * MIB, n, n * 100e9),
            read("L3", 8 * n * MIB, n, n * 30e9),
            read("memory", 1024 * MIB, n, 20e9 + n * 1e9),
            rate("f32_sse", n, n * 30e9),
            rate("f32_avx2", n, n * 100e9),
            rate("int8_avx2", n, n * 180e9),
        ]
    fields: dict[str, Any] = {
        "cpu_model": measuring._cpu_model(),
        "core_version": build_info()["version"],
        "hostname": device_info()["hostname"],
        "measured_at": "2026-01-01T00:00:00+00:00",
        "frequency_hz": 3.1e9,
        "pinned": True,
        "read_instructions": "32-byte loads (AVX2)",
        "ceilings": tuple(rows),
        "absent": (
            AbsentCeiling(FLOPS, "int8_amx", "this CPU has no AMX-INT8"),
            AbsentCeiling(READ_BANDWIDTH, "L3", "sysfs names no L3 cache", 2),
        ),
        "notes": ("memory, 1 thread: " + "a long reason " * 12,),
    }
    return Ceilings(**{**fields, **changes})


def test_json_gives_back_what_it_was_given() -> None:
    for ceilings in (make(), make(frequency_hz=None, absent=(), notes=())):
        assert Ceilings.from_json(ceilings.to_json()) == ceilings


@pytest.mark.parametrize(
    ("n_threads", "size", "level"),
    [
        (1, 4096, "L2"),
        (1, 2 * MIB, "L2"),  # twice what was measured in it
        (1, 2 * MIB + 1, "L3"),
        (2, 4 * MIB, "L2"),
        (2, 32 * MIB, "L3"),
        (2, 33 * MIB, "memory"),
        (2, 100_000 * MIB, "memory"),
    ],
)
def test_bandwidth_is_that_of_the_nearest_place_that_holds_the_set(n_threads: int, size: int, level: str) -> None:
    row = make().bandwidth(n_threads, size)
    assert (row.family, row.n_threads) == (level, n_threads)


def test_the_nearest_number_of_threads_counts() -> None:
    ceilings = make()
    assert ceilings.flops(3, "f32_avx2").n_threads == 2
    assert ceilings.flops(64, "f32_avx2").n_threads == 4
    assert ceilings.bandwidth(64, 1).n_threads == 4


def test_families_are_looked_up_by_name_and_by_type() -> None:
    ceilings = make()
    assert ceilings.families() == ("f32_sse", "f32_avx2", "int8_avx2")
    assert ceilings.flops(2, "f32_avx2").value == 200e9
    assert ceilings.best_flops(1, "f32").family == "f32_avx2"
    with pytest.raises(InvalidArgumentError, match="no AMX-INT8"):
        ceilings.flops(1, "int8_amx")
    with pytest.raises(InvalidArgumentError, match="f32_sse"):
        ceilings.flops(1, "f64_vax")
    with pytest.raises(InvalidArgumentError, match="bf16"):
        ceilings.best_flops(1, "bf16")
    with pytest.raises(InvalidArgumentError, match="--remeasure"):
        make(ceilings=()).bandwidth(1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"value": 0.0},
        {"value": float("nan")},
        {"unit": "GB/s"},
        {"kind": "speed"},
        {"working_set_bytes": None},
        {"n": 0},
        {"n_threads": 0},
    ],
)
def test_a_ceiling_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"kind|ceiling|working_set"):
        dataclasses.replace(read("L2", MIB, 1, 1e9), **change)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save_ceilings(make(), tmp_path / "new" / "c.json")
    loaded = load_ceilings(path, now=NOW)
    assert (loaded.ceilings, loaded.reason) == (make(), None)
    assert [entry.name for entry in path.parent.iterdir()] == ["c.json"]


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path))
    assert load_ceilings().reason == "no ceilings measured on this machine yet"
    assert save_ceilings(make()).parent == tmp_path
    assert load_ceilings(now=NOW).ceilings == make()
    before = measuring.cache_path()
    monkeypatch.setattr(measuring, "build_info", lambda: {"version": "99"})
    assert measuring.cache_path() != before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpu_model": "Z80"}, "cpu_model 'Z80'"),
        ({"core_version": "0.0.1"}, "core_version '0.0.1'"),
        ({"hostname": "elsewhere"}, "hostname 'elsewhere'"),
        ({"measured_at": (NOW - timedelta(days=91)).isoformat()}, "91 days old"),
        ({"measured_at": (NOW + timedelta(days=9)).isoformat()}, "future"),
        ({"measured_at": "yesterday"}, "damaged"),
        ({"measured_at": "2026-01-01T00:00:00"}, "damaged"),
    ],
)
def test_foreign_and_stale_ones_are_not_used(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    loaded = load_ceilings(save_ceilings(make(**change), tmp_path / "c.json"), now=NOW)
    assert loaded.ceilings is None
    assert reason in str(loaded.reason)


def damaged() -> list[str]:
    whole = json.loads(make().to_json())
    row = whole["ceilings"][0]
    cases = [
        {**whole, "format": whole["format"] + 1},
        {key: value for key, value in whole.items() if key != "notes"},
        {**whole, "ceilings": [{**row, "value": -1}]},
        {**whole, "ceilings": [{**row, "extra": 1}]},
        {**whole, "ceilings": 5},
        {**whole, "absent": [[]]},
    ]
    return ["", "[]", "{", "nul", "[" * 100_000, *map(json.dumps, cases)]


@pytest.mark.parametrize("text", damaged(), ids=range(len(damaged())))
def test_a_damaged_file_is_not_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    loaded = load_ceilings(path, now=NOW)
    assert loaded.ceilings is None
    assert "damaged" in str(loaded.reason)


def test_unreadable_and_unwritable_places_are_stated(tmp_path: Path) -> None:
    assert "cannot read" in str(load_ceilings(tmp_path).reason)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_ceilings(make(), tmp_path / "file" / "c.json")


def test_the_table_fits_80_columns_and_names_what_is_absent() -> None:
    long = make(cpu_model="Processor " * 20, frequency_hz=None)
    text = format_ceilings(long)
    assert max(map(len, text.splitlines())) <= 80
    assert "int8_amx: this CPU has no AMX-INT8" in text
    assert "L3, 2 threads: sysfs names no L3 cache" in text
    assert "100 GB/s" in format_ceilings(make())
    assert "200 GFLOP/s" in format_ceilings(make())


def test_a_disturbed_measurement_says_so() -> None:
    quiet, disturbed = read("L2", MIB, 1, 1e9), dataclasses.replace(read("L2", MIB, 1, 1e9), median=0.5e9)
    assert measuring._disturbance((quiet, quiet)) == ()
    (note,) = measuring._disturbance((quiet, disturbed))
    assert note.startswith("disturbed: 1 of 2")


def test_more_threads_that_do_less_are_doubted() -> None:
    assert ceiling_doubts(make()) == ()
    # GIVEN two that are lower with four threads than with fewer, one with two, and one by so little that it is chance
    lower = {("f32_avx2", 4): 150e9, ("memory", 4): 20e9, ("L2", 2): 90e9, ("L3", 2): 29.5e9}
    rows = make().ceilings
    changed = tuple(dataclasses.replace(row, value=lower.get((row.family, row.n_threads), row.value)) for row in rows)
    two, four = ceiling_doubts(make(ceilings=changed))
    assert two.startswith("ceilings with 2 threads are lower than with fewer, by up to 10% (L2): ")
    assert four.startswith("ceilings with 4 threads are lower than with fewer, by up to 25% (f32_avx2, memory): ")
    assert "melt doctor --ceilings --remeasure measures again" in four
    assert " ".join(format_ceilings(make(ceilings=changed)).split()).count("are lower than with fewer") == 2


def test_the_ceilings_own_note_of_disturbance_is_repeated() -> None:
    (doubt,) = ceiling_doubts(make(notes=("memory, 1 thread: x", "disturbed: 7 of 28 medians lie below")))
    assert doubt == "ceilings disturbed: 7 of 28 medians lie below"


def test_a_missing_frequency_is_a_note(tmp_path: Path) -> None:
    assert measuring._frequency(tmp_path)[0] is None
    assert "frequency unknown" in measuring._frequency(tmp_path)[1][0]
    policy = tmp_path / measuring._FREQUENCY
    policy.parent.mkdir(parents=True)
    policy.write_text("3100000\n")
    assert measuring._frequency(tmp_path) == (3.1e9, ())
