"""``melt doctor --ceilings``, and the measurement itself, short."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melt_core.analysis.ceilings import Ceilings
from melt_core.errors import InvalidArgumentError
from melt_core.profiling import ceilings as measuring

from .conftest import Outcome

Cli = Callable[..., Outcome]
SMALL = {"thread_counts": (1,), "measurement_s": 0.002, "max_memory_bytes": 32 << 20}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Makes measurements short, points the cache elsewhere, and counts the measurements."""
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "cache"))
    measure, calls = measuring.measure_ceilings, []

    def short(**options: Any) -> Ceilings:
        calls.append(1)
        return measure(**{**SMALL, **options})

    monkeypatch.setattr(measuring, "measure_ceilings", short)
    return calls


def test_they_are_measured_once_and_then_kept(quick: list[int], cli: Cli) -> None:
    first = cli("doctor", "--ceilings", "--json")
    assert first.code == 0
    assert "no ceilings measured on this machine yet" in first.err
    second = cli("doctor", "--ceilings", "--json")
    assert (second.code, second.err, second.out) == (0, "", first.out)
    assert len(quick) == 1
    assert cli("doctor", "--ceilings", "--remeasure", "--json").code == 0
    assert len(quick) == 2
    figures = json.loads(first.out)
    assert {row["kind"] for row in figures["ceilings"]} == {"read_bandwidth", "flops"}
    assert all(row["reason"] for row in figures["absent"])


def test_the_table_fits_80_columns(quick: list[int], cli: Cli) -> None:
    lines = cli("doctor", "--ceilings").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("L2") for line in lines)
    assert any(line.startswith("f32_scalar") for line in lines)


def test_a_cache_that_cannot_be_written_is_a_warning(
    quick: list[int], cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "file"))
    outcome = cli("doctor", "--ceilings", "--json")
    assert outcome.code == 0
    assert "not kept" in outcome.err
    assert json.loads(outcome.out)["ceilings"]


def test_a_foreign_cache_is_measured_again_and_said_so(
    quick: list[int], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("doctor", "--ceilings")
    kept = measuring.cache_path()
    kept.write_text(kept.read_text().replace('"hostname": "', '"hostname": "not-'))
    outcome = cli("doctor", "--ceilings", "--json")
    assert "hostname 'not-" in outcome.err
    assert len(quick) == 2


def test_remeasure_alone_is_bad_use(cli: Cli) -> None:
    outcome = cli("doctor", "--remeasure")
    assert outcome.code == 2
    assert "--ceilings" in outcome.complaint


def test_progress_rises_and_an_error_raised_in_it_ends_the_measurement() -> None:
    seen: list[float] = []

    def stop(label: str, done: float) -> None:
        assert label
        seen.append(done)
        if len(seen) == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        measuring.measure_ceilings(**SMALL, on_progress=stop)
    assert len(seen) == 3
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "options",
    [{"thread_counts": (0,)}, {"thread_counts": (100_000,)}, {"measurement_s": 0.0}, {"max_memory_bytes": -1}],
)
def test_bad_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        measuring.measure_ceilings(**{**SMALL, **options})


INTERRUPTED = """
from melt_core.profiling.ceilings import measure_ceilings
def tell(label, done):
    if done > 0:
        print("running", flush=True)
try:
    measure_ceilings(measurement_s=1, max_memory_bytes=32 << 20, on_progress=tell)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_it(start_python: Callable[..., subprocess.Popen[str]]) -> None:
    child = start_python(INTERRUPTED)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    child.send_signal(2)
    out, err = child.communicate(timeout=60)
    assert (out.splitlines()[-1], err) == ("interrupted", "")
