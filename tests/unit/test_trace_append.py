"""What another machine knows of a run is added to its trace; what was in it stays byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.trace_builder import TraceBuilder, rows_of, toy_trace
from melt_core.errors import InvalidArgumentError, StorageError, TraceError
from melt_core.trace import Trace
from melt_core.trace.append import SampleSeries, append_to_trace
from melt_core.trace.format import ChunkKind
from melt_core.trace.storage import written_atomically

POWER = SampleSeries("soc", "power", "W", "INA3221 VDD_IN", [30, 10, 20], [3.0, 1.0, 2.0])
HEAT = SampleSeries("skin", "temperature", "degC", "/sys/" + "x" * 80 + "/temp", [15], [41.5])


def test_samples_and_metadata_are_added(tmp_path: Path) -> None:
    source, target = tmp_path / "a.melt", tmp_path / "b.melt"
    source.write_bytes(toy_trace())
    append_to_trace(source, target, metadata={"mine": 1, "warnings": ["hot"]}, series=[POWER, HEAT])
    before, after = Trace.open(source), Trace.open(target)
    assert after.complete
    assert not after.damage
    added = after.samples["time_ns"][-4:].tolist()
    assert sorted(added) == [10, 15, 20, 30]
    assert after.samples["value"][after.samples["site"] == "skin"].tolist() == [41.5]
    assert after.samples["source"][after.samples["site"] == "skin"][0].startswith("...")
    assert after.samples["source"][after.samples["site"] == "skin"][0].endswith("/temp")
    assert after.metadata["mine"] == 1
    assert after.metadata["warnings"] == [*before.metadata["warnings"], "hot"]
    assert {**after.metadata, "mine": None, "warnings": None} == {**before.metadata, "mine": None, "warnings": None}
    assert len(after.samples) == len(before.samples) + 4
    end = len(toy_trace()) - 32
    assert target.read_bytes()[:end] == source.read_bytes()[:end]


def test_channels_get_numbers_of_their_own_also_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.melt"
    builder = TraceBuilder()
    builder.records(ChunkKind.CHANNELS, rows_of(ChunkKind.CHANNELS, [{"channel": 7, "site": b"cpu0", "kind": b"load"}]))
    builder.records(ChunkKind.SAMPLES, rows_of(ChunkKind.SAMPLES, [{"channel": 7, "time_ns": 1, "value": 0.5}]))
    path.write_bytes(builder.finish())
    for _ in range(2):
        append_to_trace(path, path, metadata={}, series=[POWER])
    trace = Trace.open(path)
    assert trace.samples["site"].tolist() == ["cpu0"] + ["soc"] * 6
    channels = trace.records(ChunkKind.CHANNELS)["channel"]
    assert channels.tolist() == [7, 8, 9]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(toy_trace())))
def test_a_cut_trace_keeps_what_it_has_and_is_not_made_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    source, target = folder / "a.melt", folder / "b.melt"
    source.write_bytes(toy_trace()[:cut])
    if cut < 64:
        with pytest.raises(TraceError):
            append_to_trace(source, target, metadata={"mine": 1}, series=[POWER])
        assert not target.exists()
        return
    before = Trace.open(source)
    append_to_trace(source, target, metadata={"mine": 1}, series=[POWER])
    after = Trace.open(target)
    assert after.complete == before.complete
    assert after.metadata["mine"] == 1
    assert len(after.samples) == len(before.samples) + 3
    for name in ("runs", "tokens", "ops", "graphs"):
        assert len(getattr(after, name)) == len(getattr(before, name)), name
    assert np.array_equal(after.tokens["token_id"], before.tokens["token_id"])


def test_what_cannot_be(tmp_path: Path) -> None:
    nothing = tmp_path / "x"
    nothing.write_bytes(b"no trace" * 20)
    with pytest.raises(TraceError):
        append_to_trace(nothing, tmp_path / "y", metadata={})
    with pytest.raises(StorageError):
        append_to_trace(tmp_path / "missing", tmp_path / "y", metadata={})
    whole = tmp_path / "z"
    whole.write_bytes(toy_trace())
    with pytest.raises(StorageError):
        append_to_trace(whole, tmp_path / "no/folder", metadata={})
    with pytest.raises(InvalidArgumentError):
        append_to_trace(whole, tmp_path / "y", metadata={"x": float("nan")})
    assert not (tmp_path / "y").exists()


def test_a_file_is_on_the_disk_before_its_name_and_that_before_anything_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x"
    synced: list[tuple[bool, bool]] = []  # whether it was the folder, and whether the name was there

    def noted(descriptor: int, really: object = os.fsync) -> None:
        synced.append((os.path.samestat(os.fstat(descriptor), tmp_path.stat()), target.exists()))
        assert callable(really)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with written_atomically(target) as file:
        file.write(b"text")
    assert synced == [(False, False), (True, True)]
    assert target.read_bytes() == b"text"
