"""Traces that were cut, damaged or never were: read as far as they go, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import melt_core as melt
from fakes.trace_builder import file_header
from melt_core.errors import ModelError
from melt_core.models import model_path

from .conftest import Outcome

Melt = Callable[..., Outcome]


@pytest.fixture(scope="module")
def trace_bytes(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    path = tmp_path_factory.mktemp("trace") / "t.melt"
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm, output=path) as profiler:
        profiler.run([1, 2, 3], max_tokens=3, repeats=3, warmup=1, ignore_eos=True, overhead_budget_s=0)
    return path.read_bytes()


def commands_on(path: Path) -> list[tuple[str, ...]]:
    return [("summary", str(path)), ("ops", str(path), "--by", "module"), ("ops", str(path), "--json")]


def test_a_trace_cut_short_is_read_as_far_as_it_goes(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "cut.melt"
    for n_bytes in (len(trace_bytes) - 1, len(trace_bytes) // 2, 100):
        path.write_bytes(trace_bytes[:n_bytes])
        for command in commands_on(path):
            outcome = cli(*command)
            assert outcome.code == 0, outcome.err
            assert "melt: warning:" in outcome.err
            assert "Traceback" not in outcome.err


@pytest.mark.parametrize("n_bytes", [0, 3, 63])
def test_a_trace_without_its_head_is_refused(n_bytes: int, trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "cut.melt"
    path.write_bytes(trace_bytes[:n_bytes])
    for command in commands_on(path):
        outcome = cli(*command)
        assert (outcome.code, outcome.out) == (1, "")
        assert str(path) in outcome.complaint


def test_flipped_bytes_are_noticed(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "flipped.melt"
    for at in range(70, len(trace_bytes), len(trace_bytes) // 12):
        data = bytearray(trace_bytes)
        data[at] ^= 0xFF
        path.write_bytes(data)
        for command in commands_on(path)[:2]:
            outcome = cli(*command)
            # Bytes that only pad a chunk to a multiple of 8 may be anything.
            assert outcome.code == 0, (at, outcome.err)
            assert "Traceback" not in outcome.err
        assert "melt: warning:" in outcome.err or data[at] == 0xFF, at


def test_a_damaged_or_newer_head_is_refused(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "other.melt"
    for data, says in (
        (trace_bytes[:30] + bytes([trace_bytes[30] ^ 1]) + trace_bytes[31:], "damaged"),
        (file_header(major=2) + trace_bytes[64:], "newer"),
        (b"GGUF" + trace_bytes[4:], "not a melt trace"),
    ):
        path.write_bytes(data)
        for command in commands_on(path):
            outcome = cli(*command)
            assert (outcome.code, outcome.out) == (1, "")
            assert says in outcome.complaint


def test_names_that_are_not_there_exit_with_an_error(cli: Melt, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nosuch"):
        model_path("nosuch")
    assert cli("models", "path", "nosuch").code == 1
    assert cli("summary", tmp_path / "none.melt").code == 1
    assert cli("nosuch").code == 2
    assert cli().code == 2
