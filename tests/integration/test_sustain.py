"""`melt sustain` as a user meets it: the synthetic runtime on this host's clock, a simulated device's sysfs tree."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.simulated_device import Curve, SimulatedDevice
from fakes.sysfs_tree import SysfsTree
from melt_core.analysis.energy import energy_of
from melt_core.analysis.sustained import sustained
from melt_core.profiling.request import ProfileRequest
from melt_core.profiling.sustain import SustainRequest, open_segments, resume, stopped_by, sustain

from .conftest import MELT, TIMEOUT_S, Outcome

Cli = Callable[..., Outcome]
#: About 4 ms a token.
MODEL = "layers=4,op_ns=300000,clock=host"
SHORT = ("--runtime", "synthetic", "--threads", 1, "--prompt-tokens", 4, "--max-tokens", 30, "--sensor-hz", 50)
DEVICE = SimulatedDevice(board_w=Curve((0.0,), (9.0,), 0.3, 3.0), tau_s=3.0)
#: From 33 degC towards 61.
HEATING = SimulatedDevice(board_w=Curve((0.0, 2.0), (2.0, 9.0), 0.3, 3.0), tau_s=3.0)


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SysfsTree]:
    heated = "temperature" in request.node.name
    with SysfsTree(tmp_path / "sys", HEATING if heated else DEVICE) as made:
        monkeypatch.setenv("MELT_SYSFS_ROOT", str(made.root))
        monkeypatch.setenv("MELT_NVML_LIBRARY", "/no/such/library")
        made.start(rate_hz=100)
        yield made


def test_it_runs_its_time_and_tags_its_tokens(tree: SysfsTree, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    done = cli("sustain", MODEL, *SHORT, "--minutes", 0.05, "--idle-s", 0.5, "-o", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["n_runs"] >= 3
    assert found["wall_s"] >= 2.0
    assert found["stopped_by"] == "time"
    assert found["cold_tok_s"]["median"] > 10
    tokens = found["tokens"]
    assert len(tokens["tok_s"]) == len(tokens["temperature_c"]) == found["n_tokens"]
    assert all(20 < value < 80 for value in tokens["temperature_c"])
    assert set(tokens["frequency_hz"]) == {2.4e9}
    (trace,) = open_segments(out)
    assert [row.phase for row in trace.phases if row.run is None] == ["load", "idle", "idle", "unload"]
    assert energy_of(trace).total.mean_w == pytest.approx(9.0, rel=0.1)
    page = (out / "report.html").read_text()
    assert "What it keeps up" in page
    assert "Temperature" in page


def test_it_stops_by_itself_at_a_temperature(tree: SysfsTree, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    done = cli("sustain", MODEL, *SHORT, "--minutes", 5, "--idle-s", 0, "--stop-temp", "cpu-thermal=45", "-o", out)
    assert done.code == 0, done.err
    assert "it was to stop at 45" in (stopped_by(out) or "")
    (trace,) = open_segments(out)
    samples = trace.samples
    heat = samples["value"][samples["kind"] == "temperature"]
    before_s = trace.runs["start_ns"][-1] / 1e9  # it looks after each prompt: the last one crossed the limit
    assert heat.max() >= 45
    hot = samples["time_ns"][(samples["kind"] == "temperature") & (samples["site"] == "cpu-thermal")]
    assert hot[-1] / 1e9 - before_s < 5
    assert trace.complete


def test_it_stops_by_itself_at_a_battery_level(tree: SysfsTree, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    done = cli("sustain", MODEL, *SHORT, "--minutes", 5, "--idle-s", 0, "--stop-battery", 90, "-o", out)
    assert done.code == 0, done.err
    assert "battery at 80%" in (stopped_by(out) or "")
    assert "ended by battery at 80%" in done.out, "one prompt is too short for figures, and that is no failure"


def test_a_stop_by_a_sensor_that_is_not_there_is_refused_first(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELT_SYSFS_ROOT", str(tmp_path))
    done = cli("sustain", MODEL, *SHORT, "--minutes", 1, "--stop-temp", 60, "-o", tmp_path / "out")
    assert done.code == 2
    assert "no sensor of it is here" in done.complaint


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_it_has_and_goes_on(
    tree: SysfsTree, tmp_path: Path, cli: Cli, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [str(MELT), "sustain", MODEL, *map(str, SHORT), "--minutes", "0.08", "--idle-s", "0", "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + TIMEOUT_S
        while sum(len(trace.runs) for trace in open_segments(out)) < 3:
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        child.send_signal(how)
        _, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    if how is signal.SIGINT:
        assert f"melt sustain --resume {out}" in err
    else:
        time.sleep(1.0)  # its child notices that it is alone and completes the trace
    before = len(open_segments(out)[0].runs)
    assert before >= 3
    # WHEN it goes on
    done = cli("sustain", "--resume", out)
    assert done.code == 0, done.err
    first, second = open_segments(out)
    assert len(first.runs) == before, "what was measured stays as it was"
    assert len(second.runs) >= 1
    assert sustained([first, second]).active_s >= 2.5
    # THEN there is nothing left to do, and showing it changes nothing
    assert cli("sustain", "--resume", out).code == 0
    assert len(open_segments(out)) == 2
    assert "sittings" in cli("sustain", "--show", out).out


def test_a_run_that_ended_by_its_time_leaves_nothing_to_resume(tmp_path: Path) -> None:
    """The end of a sitting and what is left after it go by one clock, the trace's, which here is a simulated one."""
    profile = ProfileRequest(
        model="layers=2,op_ns=1000", output="", runtime="synthetic", prompt="Hello", max_tokens=4, levels=("tokens",)
    )
    request = SustainRequest(profile, minutes=1e-5)
    (first,) = sustain(request, tmp_path / "out")
    ends_ns = first.runs["start_ns"] + first.runs["duration_ns"] - first.runs["start_ns"][0]
    assert ends_ns[-1] >= request.duration_ns > ends_ns[-2]
    assert len(resume(tmp_path / "out")) == 1


def test_bad_use(tmp_path: Path, cli: Cli) -> None:
    assert cli("sustain", MODEL, "--runtime", "synthetic").code == 2
    assert cli("sustain", "--resume", tmp_path).code == 2
    assert cli("sustain", MODEL, *SHORT, "--minutes", 0, "-o", tmp_path / "x").code == 2
    assert cli("sustain", MODEL, *SHORT, "--minutes", 1, "--stop-temp", "warm", "-o", tmp_path / "x").code == 2
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "segment-000.melt").write_bytes(b"")
    done = cli("sustain", MODEL, *SHORT, "--minutes", 1, "-o", tmp_path / "y")
    assert done.code == 2
    assert "--resume" in done.complaint
    (tmp_path / "y" / "request.json").write_text("{")
    assert "is damaged" in cli("sustain", "--resume", tmp_path / "y").complaint


def test_profile_records_idle_windows_for_net_energy(tree: SysfsTree, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "t.melt"
    done = cli(
        "profile", MODEL, "--runtime", "synthetic", "--threads", 1, "--prompt-tokens", 4, "--max-tokens", 150,
        "--repeats", 2, "--overhead-seconds", 0, "--idle-s", 1, "-o", path,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(cli("energy", path, "--json").out)
    assert found["total"]["idle_w"] == pytest.approx(9.0, rel=0.1)
    assert found["total"]["gross_j"] == pytest.approx(9.0 * found["total"]["wall_s"], rel=0.05)
    assert abs(found["total"]["net_j"]) < 0.15 * found["total"]["gross_j"]
