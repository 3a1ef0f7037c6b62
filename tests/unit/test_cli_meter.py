"""`melt meter`: an instrument on loopback recorded, and recordings joined with traces, as a user does it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes.meters import START_WALL_NS, Pulse, device_of, irregular_runs, metered, trace_of
from fakes.scpi_instrument import ScpiInstrument
from melt_core.cli.main import main
from melt_core.meters import Recording, read_csv, write_csv
from melt_core.trace import Trace

RUNS = irregular_runs(minutes=0.8, seed=4)
IDLE: list[Pulse] = [(0.0, 2.5), (RUNS[-1].end_s + 0.5, RUNS[-1].end_s + 3.0)]
DEVICE = device_of(RUNS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a trace, and what a meter with a clock of its own read meanwhile."""
    (tmp_path / "t.melt").write_bytes(trace_of(RUNS, idle=IDLE)._contents.buffer)
    recording = metered(
        DEVICE, offset_s=-4.0, drift_ppm=40.0, minutes=1.0, rate_hz=100, start_wall_ns=START_WALL_NS - 4_300_000_000
    )
    write_csv(recording, tmp_path / "r.csv")
    return tmp_path


def join(folder: Path, *options: str) -> int:
    return main(
        ["meter", "join", str(folder / "t.melt"), str(folder / "r.csv"), "-o", str(folder / "j.melt"), *options]
    )


def test_a_joined_recording_is_what_energy_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert join(folder) == 0
    assert "aligned by load" in capsys.readouterr().out
    assert main(["energy", str(folder / "j.melt"), "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    truth = sum(DEVICE.energy_j("board", run.start_s, run.end_s) for run in RUNS[1:])  # the first is the warm-up
    assert total["gross_j"] == pytest.approx(truth, rel=0.01)
    assert total["net_j"] == pytest.approx(truth - 2.0 * total["wall_s"], rel=0.02)
    assert total["source"] == "meter/power"


#: What is done to the recording, options, and what the one line of complaint has to name.
BAD: dict[str, tuple[Callable[[str], str], tuple[str, ...], str]] = {
    "another column": (lambda text: text.replace("power_w", "pegel_x"), (), "--column power=NAME"),
    "no unit": (lambda text: text.replace("power_w", "power"), (), "--unit power=UNIT"),
    "a unit that is none": (lambda text: text, ("--unit", "power=hp"), "'hp'"),
    "a separator that is none": (lambda text: text, ("--separator", ";"), "--separator"),
    "an option without a value": (lambda text: text, ("--column", "power"), "NAME=VALUE"),
    "time that goes back": (lambda text: text + text.splitlines()[40] + "\n", (), "time goes back"),
    "text": (lambda text: "hello\nworld\n", (), "is it a CSV file"),
    "nothing": (lambda text: "", (), "is empty"),
    "of another day": (lambda text: text, ("--by", "load", "--near", "90000"), "no reading from where"),
}


@pytest.mark.parametrize("case", BAD)
def test_recordings_that_cannot_be_joined(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, options, words = BAD[case]
    (folder / "r.csv").write_text(change((folder / "r.csv").read_text()))
    assert join(folder, *options) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert complaint.count("\n") == 1
    assert not (folder / "j.melt").exists()


@pytest.mark.parametrize("name", ["t.melt", "r.csv"])
def test_an_output_that_is_an_input_is_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / name).read_bytes()
    (folder / "j.melt").symlink_to(folder / name)
    assert join(folder) == 2
    assert "the output is the input; name another file" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before


def test_a_recording_that_is_written_is_read_the_same(tmp_path: Path) -> None:
    power = np.array([1.5, np.nan, 2.25])
    time_ns = np.array([0, 100_000_123, 200_000_000])
    made = Recording(
        time_ns, {"power": power, "voltage": np.array([4.0, 4.0, 4.1])}, "a meter", START_WALL_NS, ("odd",)
    )
    write_csv(made, tmp_path / "r.csv")
    with pytest.raises(Exception, match="1 of 3 rows"):  # a third of it is no number
        read_csv(tmp_path / "r.csv")
    made = Recording(np.arange(50) * 20_000_123, {"current": np.arange(50) / 7}, "a meter", START_WALL_NS, ("odd, so",))
    write_csv(made, tmp_path / "r.csv")
    found = read_csv(tmp_path / "r.csv")
    assert found.series["current"].tolist() == made.series["current"].tolist()
    assert found.time_ns == pytest.approx(made.time_ns, abs=500)  # what a double holds of a time since 1970
    assert found.start_wall_ns == pytest.approx(START_WALL_NS, abs=500)
    assert found.warnings == ("odd, so",)


def record(instrument: ScpiInstrument, output: Path, *options: str) -> int:
    return main(["meter", "record", instrument.address, "-o", str(output), "--query", "power=MEAS:POW?", *options])


def test_recording_goes_on_until_ctrl_c_and_keeps_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def power(number: int) -> str:
        if number == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return f"{number}.5"

    with ScpiInstrument({"MEAS:POW?": power}) as instrument:
        assert record(instrument, tmp_path / "r.csv", "--rate", "100") == 0
    assert "10 readings of power" in capsys.readouterr().out
    recording = read_csv(tmp_path / "r.csv")
    assert recording.power_w().tolist() == [number + 0.5 for number in range(1, 11)]  # the first answer was a trial
    assert recording.start_wall_ns is not None


def test_an_unplugged_meter_is_named_where_the_readings_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def power(number: int) -> str:
        if number == 20:
            instrument.unplug()
        return "2.5"

    with ScpiInstrument({"MEAS:POW?": power}) as instrument:
        assert record(instrument, tmp_path / "r.csv", "--rate", "100", "--seconds", "30") == 0
    assert "stopped answering" in capsys.readouterr().err
    recording = read_csv(tmp_path / "r.csv")
    assert any("unplugged" in text for text in recording.warnings)
    assert recording.duration_s < 20


def test_what_cannot_be_recorded_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScpiInstrument({"MEAS:POW?": lambda number: "2.5"}) as instrument:
        for output, options, code, words in (
            (tmp_path / "no" / "r.csv", (), 1, "there is no directory"),
            (tmp_path / "r.csv", ("--rate", "0"), 2, "--rate 0"),
            (tmp_path / "r.csv", ("--seconds", "-1"), 2, "--seconds -1"),
            (tmp_path / "r.csv", ("--query", "watts=MEAS:POW?"), 2, "not of watts"),
            (tmp_path / "r.csv", ("--query", "voltage=MEAS:VOLT?"), 2, "--query voltage=..."),
        ):
            assert record(instrument, output, *options) == code
            assert words in capsys.readouterr().err
        address = instrument.address
    assert main(["meter", "record", address, "-o", str(tmp_path / "r.csv")]) == 1
    assert address in capsys.readouterr().err
    assert not (tmp_path / "r.csv").exists()


def test_the_joined_trace_says_what_was_wrong_with_the_recording(folder: Path) -> None:
    lines = (folder / "r.csv").read_text().splitlines()
    lines.insert(1, "# warning: the instrument stopped answering at 3.2 s: unplugged?")
    (folder / "r.csv").write_text("\n".join(lines) + "\n")
    assert join(folder, "--by", "wall") == 0
    warnings = Trace.open(folder / "j.melt").warnings
    assert any("stopped answering" in text for text in warnings)
    assert any("wall clocks only" in text for text in warnings)
