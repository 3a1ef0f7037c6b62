"""The simulated device: is its truth true, and do its files show it?"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fakes.simulated_device import Curve, Run, SimulatedDevice, sample, sample_records
from fakes.sysfs_tree import BATTERY, INA, RAPL, RAPL_RANGE_UJ, THERMAL, SysfsTree

RUNS = [Run(1.0, 0.4, 2.0), Run(5.0, 0.4, 2.0)]


def device() -> SimulatedDevice:
    return SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=RUNS, ripple=0.5)


def test_energy_is_the_integral_of_power() -> None:
    simulated = device()
    times = np.linspace(0.0, 9.0, 900_001)
    for site in ("board", "cpu", "battery"):
        power = simulated.power_w(site, times)
        by_sum = float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(times)))
        assert simulated.energy_j(site, 0.0, 9.0) == pytest.approx(by_sum, rel=1e-5)
    flat = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=RUNS)
    assert flat.energy_j("board", 1.0, 1.4) == pytest.approx(3.6)


def test_heat_follows_the_equation() -> None:
    simulated = device()
    times = np.linspace(0.0, 9.0, 90_001)
    steady = simulated.ambient_c + simulated.kelvin_per_w * (
        simulated.board_w.at(times) - 0.5 * np.sin(2 * np.pi * 7.0 * times)
    )
    stepwise = [float(steady[0])]
    for target in steady[:-1]:
        stepwise.append(stepwise[-1] + (target - stepwise[-1]) * 1e-4 / simulated.tau_s)
    assert np.allclose(simulated.temperature_c(times), stepwise, atol=1e-3)


def test_samples_are_those_of_a_sampler() -> None:
    read = sample(device(), "package-0", "energy", rate_hz=100, end_s=9.0, jitter_s=1e-3, missed_ratio=0.1, step=1e-6)
    assert 780 < len(read.time_ns) < 840
    assert np.all(np.diff(read.time_ns) > 0)
    assert read.value[-1] - read.value[0] == pytest.approx(
        device().energy_j("package-0", *(read.time_ns[[0, -1]] / 1e9)), rel=1e-5
    )
    slow = sample(device(), "battery", "current", rate_hz=100, end_s=9.0, refresh_s=1.0)
    assert len(np.unique(slow.value)) <= 10
    wrapped = sample(device(), "package-0", "energy", end_s=9.0, wrap=5.0, offset=4.0)
    assert wrapped.value.max() < 5.0
    assert np.count_nonzero(np.diff(wrapped.value) < 0) >= 2
    channels, samples = sample_records([read, slow])
    assert channels["site"].tolist() == [b"package-0", b"battery"]
    assert np.count_nonzero(samples["channel"] == 1) == len(slow.value)


def test_charging_turns_the_battery_round() -> None:
    simulated = SimulatedDevice(board_w=Curve((0.0,), (4.0,)), charger_w=Curve((0.0, 10.0), (0.0, 10.0)))
    assert simulated.truth("battery", "current")(5.0) == pytest.approx(4.0 / 3.85)
    assert simulated.truth("battery", "current")(15.0) == pytest.approx(-6.0 / 3.85)
    assert float(simulated.charge_ah(20.0)) > float(simulated.charge_ah(10.0))


def test_the_tree_shows_the_device(tmp_path: Path) -> None:
    def shown(path: str) -> int:
        return int((tmp_path / path).read_text())

    with SysfsTree(
        tmp_path, device(), rapl_start_j=RAPL_RANGE_UJ / 1e6 - 1.0, battery_unit=1e3, thermal_unit=1
    ) as tree:
        tree.update(0.0)
        assert shown(f"{RAPL}/energy_uj") == RAPL_RANGE_UJ - 1_000_000
        tree.update(1.2)
        assert shown(f"{RAPL}/energy_uj") == pytest.approx(device().energy_j("package-0", 0, 1.2) * 1e6 - 1e6, abs=2)
        assert shown(f"{INA}/curr1_input") * 5.0 / 1e3 == pytest.approx(
            float(device().power_w("board", 1.2)), abs=0.003
        )
        assert shown(f"{BATTERY}/current_now") == pytest.approx(
            -float(device().power_w("battery", 1.2)) / 3.85e-3, abs=1
        )
        assert shown(f"{THERMAL}/temp") == round(float(device().temperature_c(1.2)))
        tree.garble(f"{THERMAL}/temp")
        tree.vanish(f"{INA}/curr1_input")
        tree.start(rate_hz=200)
        before = shown(f"{RAPL}/energy_uj")
        deadline = time.monotonic() + 5
        while shown(f"{RAPL}/energy_uj") == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shown(f"{RAPL}/energy_uj") != before
        assert (tmp_path / THERMAL / "temp").read_text().startswith("<error>")
        assert not (tmp_path / INA / "curr1_input").exists()
        tree.come_back(f"{INA}/curr1_input")
        assert shown(f"{INA}/curr1_input") > 0
