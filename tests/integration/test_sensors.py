"""Sensors in a profile: a simulated device's sysfs tree is read while the synthetic runtime runs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import melt_core as melt
from fakes.simulated_device import Curve, SimulatedDevice
from fakes.sysfs_tree import BATTERY, COOLING, CPUFREQ, INA, INA238, RAPL, RAPL_RANGE_UJ, THERMAL, SysfsTree
from melt_core.analysis.samples import Series, series_of
from melt_core.errors import InvalidArgumentError
from melt_core.meters import marker_times
from melt_core.trace.format import ChunkKind

from .conftest import Outcome

Cli = Callable[..., Outcome]
#: About 12 ms of host time for each token.
SLOW_OPS = "layers=4,op_ns=1000000,clock=host"
DEVICE = SimulatedDevice(board_w=Curve((0.0, 0.6), (4.0, 9.0), 0.3, 3.0))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SysfsTree]:
    # The counter wraps within a second at 6 W.
    with SysfsTree(tmp_path / "sys", DEVICE, rapl_start_j=RAPL_RANGE_UJ / 1e6 - 2.0) as made:
        monkeypatch.setenv("MELT_SYSFS_ROOT", str(made.root))
        monkeypatch.setenv("MELT_NVML_LIBRARY", "/no/such/library")
        yield made


def profiled(
    tree: SysfsTree, *, sensors: object = "auto", idle_s: float = 0.0, max_tokens: int = 60, **options: object
) -> melt.Trace:
    with melt.load(SLOW_OPS, runtime="synthetic", n_threads=1) as llm:
        tree.start(rate_hz=500)
        with melt.profile(llm, levels=("tokens",), sensors=sensors, **options) as recording:  # type: ignore[arg-type]
            if idle_s:
                recording.sample_idle(idle_s)
            recording.run("Hello", max_tokens=max_tokens, ignore_eos=True, warmup=0)
        return recording.trace


def truth_of(tree: SysfsTree, trace: melt.Trace) -> Callable[[Series], np.ndarray]:
    """Returns the device's true values at the times of a series; the clocks differ by one offset, found from load."""
    power = series_of(trace)["ina238/power"]
    times = np.linspace(-5.0, 5.0, 10_001)
    # The step of the board's power is the marker that aligns both clocks.
    misfit = [
        float(np.mean(np.abs(tree.device.power_w("board", power.time_ns / 1e9 + offset) - power.values)))
        for offset in times
    ]
    offset = times[int(np.argmin(misfit))]
    return lambda series: tree.device.truth("board", series.kind)(series.time_ns / 1e9 + offset)


def test_what_is_read_is_what_the_device_does(tree: SysfsTree) -> None:
    trace = profiled(tree)
    series = series_of(trace)
    assert {
        "package-0/energy", "board/power", "vdd-cpu-gpu-cv/power", "vdd-soc/power", "ina238/power", "battery/power",
        "battery/current", "battery/voltage", "battery/charge", "battery/charge_share", "battery/charging",
        "battery/temperature", "cpu-thermal/temperature", "cpufreq-cpu0/throttle", "cpu-policy0/frequency",
    } == set(series)  # fmt: skip
    assert {name: one.unit for name, one in series.items() if one.site == "battery"} == {
        "battery/power": "W", "battery/current": "A", "battery/voltage": "V", "battery/charge": "Ah",
        "battery/charge_share": "ratio", "battery/charging": "flag", "battery/temperature": "degC",
    }  # fmt: skip
    board = series["board/power"]
    assert len(board.values) > 20
    assert np.max(np.abs(truth_of(tree, trace)(board) - board.values)) < 0.3
    energy = series["package-0/energy"]
    assert np.all(np.diff(energy.values) >= 0), "the wrap is undone"
    seconds = (board.time_ns[-1] - board.time_ns[0]) / 1e9
    mean_w = (
        np.trapezoid(board.values, board.time_ns) / 1e9 / seconds if hasattr(np, "trapezoid") else np.mean(board.values)
    )
    energy_s = (energy.time_ns[-1] - energy.time_ns[0]) / 1e9  # each source is read at times of its own
    assert (energy.values[-1] - energy.values[0]) / energy_s == pytest.approx(0.7 * mean_w, rel=0.03)
    assert series["battery/current"].values[-1] == pytest.approx(series["board/power"].values[-1] / 3.85, abs=0.3)
    assert series["cpu-policy0/frequency"].values[0] == 2.4e9


def test_the_trace_says_what_sampling_cost_and_what_is_absent(tree: SysfsTree) -> None:
    sensors = profiled(tree, sensor_hz=50.0).metadata["sensors"]
    assert sensors["sampler"]["rate_hz"] == 50
    assert sensors["sampler"]["n_dropped"] == 0
    assert 0 < sensors["sampler"]["cpu_ratio"] < 1
    assert sensors["sampler"]["jitter_p95_ns"] > 0
    assert sensors["faults"] == []
    rates = {name: row["rate_hz"] for row in sensors["sources"] for name in row["channels"]}
    assert rates["package-0/energy"] == 50
    assert rates["battery/current"] == 10
    assert set(sensors["absent"]) >= {"nvml", "adreno", "mali", "tegra_gpu", "odpm"}
    assert all(sensors["absent"].values())


def test_the_thread_wakes_no_more_often_than_its_fastest_sensor_may_be_read(tree: SysfsTree) -> None:
    sensors = profiled(tree, sensors=["power_supply"]).metadata["sensors"]
    assert sensors["sampler"]["rate_hz"] == 10


def test_idle_is_a_phase_of_its_own(tree: SysfsTree) -> None:
    trace = profiled(tree, idle_s=0.3)
    phases = trace.phases.to_dicts()
    idle = next(row for row in phases if row["phase"] == "idle")
    assert 0.3e9 <= idle["duration_ns"] < 3e9
    board = series_of(trace)["board/power"]
    inside = board.between(idle["start_ns"], idle["start_ns"] + idle["duration_ns"])
    assert len(inside.values) >= 10
    assert "idle" not in trace.summary().to_json().get("phases", {})


def test_marker_pulses_are_phases_and_idle_windows_are_kept_for_the_meter() -> None:
    with (
        melt.load(SLOW_OPS, runtime="synthetic", n_threads=2) as llm,
        melt.profile(llm, levels=("tokens",), sensors="none") as recording,
    ):
        recording.sample_idle(0.1)  # nobody reads: not kept
        before = time.process_time()
        recording.mark()
        spent_s = time.process_time() - before
        recording.sample_idle(0.1)
        recording.run("Hello", max_tokens=2, ignore_eos=True, warmup=0)
    phases = recording.trace.phases.to_dicts()
    pulses = [row for row in phases if row["phase"] == "marker"]
    assert marker_times(recording.trace) == [row["start_ns"] for row in pulses]
    assert len(pulses) == 3
    assert all(row["run"] is None and 0.5e9 <= row["duration_ns"] < 2e9 for row in pulses)
    rests = np.diff([row["start_ns"] for row in pulses])
    assert rests[1] - rests[0] > 0.2e9, "rests that differ fit at one place only"
    assert spent_s > 0.2, "pulses are of load"  # 3 s where nothing else runs
    assert [row["phase"] for row in phases].count("idle") == 1


def test_a_run_is_asked_for_with_its_pulses_and_idle_windows_around_it() -> None:
    with (
        melt.load(SLOW_OPS, runtime="synthetic", n_threads=1) as llm,
        melt.profile(llm, levels=("tokens",), sensors="none") as recording,
    ):
        recording.run(prompt_tokens=3, max_tokens=2, warmup=0, idle_s=0.1, marker=True)
    names = [row["phase"] for row in sorted(recording.trace.phases.to_dicts(), key=lambda row: row["start_ns"])]
    assert names == ["load", *["marker"] * 3, "idle", "prefill", "decode", "idle", *["marker"] * 3]


#: Channel -> what happens to its file, and as what the trace has to name it.
BREAKS: dict[str, tuple[Callable[[SysfsTree], None], str]] = {
    "ina238/power": (lambda tree: tree.vanish(f"{INA238}/power1_input"), "vanished"),
    "vdd-cpu-gpu-cv/power": (lambda tree: tree.garble(f"{INA}/curr2_input"), "garbage"),
    "cpu-thermal/temperature": (lambda tree: tree.garble(f"{THERMAL}/temp", "-40000"), "impossible"),
    "cpu-policy0/frequency": (lambda tree: tree.garble(f"{CPUFREQ}/scaling_cur_freq", ""), "garbage"),
    "battery/current": (lambda tree: tree.garble(f"{BATTERY}/current_now", "99000000"), "impossible"),
    "package-0/energy": (lambda tree: tree.freeze(f"{RAPL}/energy_uj"), "frozen"),
    "cpufreq-cpu0/throttle": (lambda tree: tree.garble(f"{COOLING}/cur_state", "-22"), "impossible"),
}


def wait_for_start(tree: SysfsTree) -> None:
    """Returns a second after the device began to move: even the slowest sensor has been read several times then."""
    deadline = time.monotonic() + 20
    while not tree.zero_ns and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.0)


def test_sensors_that_break_in_mid_run_are_named(tree: SysfsTree) -> None:
    # GIVEN sensors that break while a model runs
    def later() -> None:
        wait_for_start(tree)
        for break_it, _ in BREAKS.values():
            break_it(tree)

    thread = threading.Thread(target=later)
    thread.start()
    trace = profiled(tree, max_tokens=640)  # seconds longer than a counter may stand still
    thread.join()
    faults = {(row["channel"], row["fault"]): row for row in trace.metadata["sensors"]["faults"]}
    series = series_of(trace)
    # THEN each is named, with when
    assert set(faults) == {(name, fault) for name, (_, fault) in BREAKS.items()} | {("battery/power", "impossible")}
    for name, (_, fault) in BREAKS.items():
        row, own = faults[name, fault], series[name]
        assert row["n_readings"] >= 1
        assert any(f"sensor {name}: " in text and fault in text for text in trace.warnings)
        # AND what was read meanwhile is no sample, but for one that only stands still
        first_ns, last_ns = row["spans_ns"][0]
        inside = (own.time_ns >= first_ns) & (own.time_ns <= last_ns)
        assert inside.any() == (fault == "frozen") == row["kept"], name
        assert len(own.values) >= 2
        assert np.all(np.isfinite(own.values))
    # AND one that shares a chip with a broken one goes on
    assert series["board/power"].time_ns[-1] > series["vdd-cpu-gpu-cv/power"].time_ns[-1] + 1e9


def test_a_sensor_that_comes_back_is_a_gap(tree: SysfsTree) -> None:
    path = f"{INA238}/power1_input"

    def gone_for_a_while() -> None:
        wait_for_start(tree)
        tree.vanish(path)
        time.sleep(0.8)
        tree.come_back(path)

    thread = threading.Thread(target=gone_for_a_while)
    thread.start()
    trace = profiled(tree, max_tokens=400)
    thread.join()
    power = series_of(trace)["ina238/power"]
    (row,) = trace.metadata["sensors"]["faults"]
    first_ns, last_ns = row["spans_ns"][0]
    assert (row["channel"], row["fault"]) == ("ina238/power", "vanished")
    assert power.time_ns[-1] > last_ns
    assert not ((power.time_ns >= first_ns) & (power.time_ns <= last_ns)).any()


def test_sensors_by_name(tree: SysfsTree) -> None:
    trace = profiled(tree, sensors=["rapl", "thermal"])
    assert set(series_of(trace)) == {"package-0/energy", "cpu-thermal/temperature"}
    none = profiled(tree, sensors="none")
    assert not len(none.records(ChunkKind.CHANNELS))
    assert "sensors" not in none.metadata
    with pytest.raises(InvalidArgumentError, match="kgsl"):
        profiled(tree, sensors=["adreno"])
    with pytest.raises(InvalidArgumentError, match='unknown sensor "watts": choose from auto, rapl'):
        profiled(tree, sensors="watts")
    for rate_hz in (0.0, -1.0, 1e9, float("nan")):
        with pytest.raises(InvalidArgumentError, match="sensor rate"):
            profiled(tree, sensor_hz=rate_hz)


def test_level_memory_and_sensors_share_one_thread(tree: SysfsTree) -> None:
    tree.start()
    with (
        melt.load(SLOW_OPS, runtime="synthetic", n_threads=1) as llm,
        melt.profile(llm, levels=("tokens", "memory"), sensor_hz=20.0) as recording,
    ):
        recording.run("Hello", max_tokens=8, ignore_eos=True, warmup=0, repeats=2)
    trace = recording.trace
    names = series_of(trace)
    assert {"process/rss", "process/rss_after_run", "package-0/energy"} <= set(names)
    rates = {name: row["rate_hz"] for row in trace.metadata["sensors"]["sources"] for name in row["channels"]}
    assert (rates["process/rss"], rates["package-0/energy"]) == (100, 20)
    assert len(names["process/rss"].values) > 2 * len(names["package-0/energy"].values)
    assert "machine/steal" not in trace.metadata["sensors"]["absent"]


def test_the_command_line(tree: SysfsTree, cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "t.melt"
    common = ("profile", SLOW_OPS, "--runtime", "synthetic", "--prompt", "Hi", "--max-tokens", 4, "--repeats", 1)
    done = cli(*common, "--sensors", "rapl,cpufreq", "--sensor-hz", 20, "--idle-s", 0.2, "-o", output, "--json")
    assert done.code == 0, done.err
    trace = melt.Trace.open(output)
    assert set(series_of(trace)) == {"package-0/energy", "cpu-policy0/frequency"}
    assert [row["phase"] for row in trace.phases.to_dicts()].count("idle") == 2
    assert cli(*common, "--sensors", "none").code == 0
    refused = cli(*common, "--sensors", "odpm")
    assert refused.code == 2
    assert "odpm" in refused.complaint
    assert cli(*common, "--sensors", "none,rapl").code == 2


def test_doctor_lists_every_sensor_with_a_reason(tree: SysfsTree, cli: Cli) -> None:
    findings = {row["subject"]: row for row in json.loads(cli("doctor", "--json").out)}
    names = {f"sensor {name}" for name in melt.sensor_names()}
    assert names <= set(findings)
    assert findings["sensor rapl"]["state"] == "ok"
    assert "package-0/energy/J" in findings["sensor rapl"]["detail"]
    for name in names:
        assert findings[name]["detail"], name
    assert findings["sensor nvml"]["state"] == "absent"
    assert "/no/such/library" in findings["sensor nvml"]["detail"]
    (tree.root / RAPL / "max_energy_range_uj").unlink()
    (tree.root / THERMAL / "temp").write_text("-274000\n")
    findings = {row["subject"]: row for row in json.loads(cli("doctor", "--json").out)}
    assert findings["sensor rapl"]["state"] == "absent"
    assert "max_energy_range_uj" in findings["sensor rapl"]["detail"]
    assert "-274000" in findings["sensor thermal"]["detail"]


def test_an_unreadable_root_leaves_everything_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for root in (tmp_path / "none", Path(os.devnull)):
        monkeypatch.setenv("MELT_SYSFS_ROOT", str(root))
        for sensor in melt.sensors():
            if sensor.name != "nvml":
                assert sensor.channels == ()
                assert sensor.absent[sensor.name]
