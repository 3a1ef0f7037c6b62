"""Each telemetry parser against what its source says; values worked out by hand from tests/data/devices."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fakes.device_texts import text_of, tree_of, write_tree
from melt_core.devices.telemetry import (
    LocalTree,
    Readout,
    SnapshotTree,
    cpufreq,
    dumpsys_battery,
    dumpsys_cpuinfo,
    ina238,
    ina3221,
    ios_json,
    memory,
    merged,
    nvpmodel,
    odpm,
    power_supply,
    tegrastats,
    thermal_zones,
    thermalservice,
)
from melt_core.devices.telemetry.current_sign import amperes, oriented
from melt_core.devices.telemetry.sites import site_of
from melt_core.errors import TelemetryError


def values(readout: Readout) -> dict[str, float]:
    return {reading.channel.name: reading.value for reading in readout.readings}


def absent(readout: Readout) -> dict[str, str]:
    return {entry.what: entry.reason for entry in readout.absent}


# Android


def test_battery_service_aosp() -> None:
    readout = dumpsys_battery.parse(text_of("battery_aosp.txt"))
    assert values(readout) == pytest.approx(
        {
            "battery/charge_share/ratio": 0.85,
            "battery/voltage/V": 4.123,
            "battery/temperature/degC": 25.3,
            "battery/charge/Ah": 3.021,
            "battery/charging/flag": 1.0,
        }
    )
    assert readout.facts["powered_by"] == "USB"


def test_battery_service_samsung_has_a_current_and_repeats_keys() -> None:
    readout = dumpsys_battery.parse(text_of("battery_samsung.txt"))
    assert values(readout)["battery/current/A"] == pytest.approx(0.412)  # discharging: positive, whatever the sign
    assert values(readout)["battery/charge_share/ratio"] == 0.47  # not the 99 further down
    assert readout.facts["powered_by"] == "battery"


def test_battery_service_that_was_set_by_hand_says_so() -> None:
    readout = dumpsys_battery.parse(text_of("battery_unplugged_by_hand.txt"))
    assert any("set by hand" in note for note in readout.notes)
    assert values(readout)["battery/voltage/V"] == 4.0  # some report volts
    assert "battery/charge/Ah" in absent(readout)  # a counter of 0 is none


def test_thermal_service_reads_the_hal_block_and_classifies_by_name() -> None:
    readout = thermalservice.parse(text_of("thermalservice_a52.txt"))
    got = values(readout)
    # Samsung's type 4 is SKIN, 1 is CPU and 3 BATTERY: names say it; the cached 51.2 is not read
    assert got["skin/temperature/degC"] == 26.9
    assert got["cpu/temperature/degC"] == 28.3
    assert got["battery/temperature/degC"] == 27.4
    assert got["soc/temperature/degC"] == 25.6
    assert got["usb/temperature/degC"] == 26.1
    assert got["soc/throttle/level"] == 0.0
    assert got["cooling-gpu/throttle/level"] == 3.0
    assert "-99.9" in absent(readout)["modem/temperature/degC"]


def test_thermal_service_with_lower_case_names() -> None:
    got = values(thermalservice.parse(text_of("thermalservice_xiaomi.txt")))
    assert got["cpu/temperature/degC"] == 71.0
    assert got["cpu4-gold-usr/temperature/degC"] == 78.5  # the second of its kind keeps its name
    assert got["skin/temperature/degC"] == 43.9
    assert got["skin-foo7/temperature/degC"] == 41.0  # nothing in the name: AOSP's type 3
    assert got["soc/throttle/level"] == 3.0


def test_power_supply_of_a_phone() -> None:
    readout = power_supply.parse(tree_of("phone.tree"))
    assert values(readout) == pytest.approx(
        {
            "battery/charging/flag": 0.0,
            "battery/charge_share/ratio": 0.47,
            "battery/voltage/V": 3.841,
            "battery/current/A": 0.412,
            "battery/charge/Ah": 2.12,
            "battery/temperature/degC": 31.2,
            "battery/power/W": 3.841 * 0.412,
        }
    )
    assert readout.facts["chargers_online"] == "none"  # usb is there, but not on; the pen's battery is not ours


@pytest.mark.parametrize(
    ("raw", "status", "hints", "current", "unit"),
    [
        (-412_000, "discharging", (), 0.412, "uA"),
        (412_000, "discharging", (), 0.412, "uA"),
        (-412, "discharging", (), 0.412, "mA"),
        (412, "charging", (), -0.412, "mA"),
        (15_000, "discharging", (), 0.015, "uA"),  # 15 A is no phone
        (5_000, "discharging", (3_000_000.0,), 0.005, "uA"),  # the driver's limit shows the unit
        (-250_000, "full", (), None, "uA"),
        (0, "full", (), 0.0, "mA"),
    ],
)
def test_sign_and_unit_of_a_current_are_probed(
    raw: float, status: str, hints: tuple[float, ...], current: float | None, unit: str
) -> None:
    taken, said = amperes(raw, limits=hints)
    assert said == unit
    got = oriented(taken, status)
    assert got == (None if current is None else pytest.approx(current))


def test_an_unknown_direction_is_absent_with_its_reason() -> None:
    files = {"type": "Battery", "status": "Full", "current_now": "-250000", "voltage_now": "4200"}
    tree = SnapshotTree({f"{power_supply.ROOT}/bms/{name}": text for name, text in files.items()})
    readout = power_supply.parse(tree)
    assert "battery/current/A" not in values(readout)
    assert '"full"' in absent(readout)["battery/current/A"]
    assert values(readout)["battery/voltage/V"] == 4.2
    assert any("taken for mV" in note for note in readout.notes)


def test_clusters_and_their_caps() -> None:
    readout = cpufreq.parse(tree_of("phone.tree"))
    assert values(readout) == {
        "cpu-policy0/frequency/Hz": 1_804_800_000.0,
        "cpu-policy7/frequency/Hz": 2_841_600_000.0,
    }
    assert readout.facts["capped_policy7_hz"] == "2400000000"
    assert readout.facts["governor_policy0"] == "schedutil"
    assert [policy.cpus for policy in cpufreq.policies(tree_of("phone.tree"))] == [(0, 1, 2, 3), (7,)]


def test_time_in_state() -> None:
    assert cpufreq.time_in_state("300000 1200\n1804800 50\n") == {3e8: 12.0, 1.8048e9: 0.5}
    with pytest.raises(TelemetryError, match="no clock"):
        cpufreq.time_in_state("300000 1200 7")


def test_odpm_rails() -> None:
    got = values(odpm.parse(tree_of("pixel_odpm.tree")))
    assert got == pytest.approx(
        {"mem/energy/J": 89.012345, "cpu/energy/J": 120.0, "cpu-s3m-vdd-cpucl1/energy/J": 60.0, "gpu/energy/J": 7.0}
    )


def test_odpm_that_the_shell_may_not_read_says_so() -> None:
    tree = SnapshotTree({f"{odpm.ROOT}/iio:device0/name": "s2mpg10-odpm"})
    assert "user builds" in absent(odpm.parse(tree))["energy"]


def test_memory_files() -> None:
    got = values(memory.parse_status(text_of("status.txt")))
    assert got["process/peak_rss/B"] == 219876 * 1024
    rollup = values(memory.parse_smaps_rollup(text_of("smaps_rollup.txt")))
    assert rollup == {"process/rss/B": 166800 * 1024, "process/pss/B": 151200 * 1024, "process/swap/B": 0}
    tree = tree_of("phone.tree")
    meminfo = values(memory.parse_meminfo(tree.read("/proc/meminfo") or ""))
    assert meminfo["mem/available/B"] == 3210000 * 1024
    with pytest.raises(TelemetryError, match="rollup"):
        memory.parse_smaps_rollup("Rss: 12 kB\n")


def test_cpuinfo_service() -> None:
    use = dumpsys_cpuinfo.parse_use(text_of("cpuinfo.txt"))
    assert use.load_average == (12.3, 10.1, 9.8)
    assert use.total_ratio == pytest.approx(0.076)
    assert (use.began_ms_ago, use.ended_ms_ago) == (14273.0, 9261.0)
    assert [(pid, name) for pid, name, _ in use.processes] == [
        (20011, "melt-agent"), (1234, "system_server"), (21377, "kworker/u16"),
    ]  # fmt: skip
    assert values(dumpsys_cpuinfo.parse(text_of("cpuinfo.txt"))) == {"cpu/load/ratio": pytest.approx(0.076)}


# Jetson


def test_ina3221_of_an_agx_orin() -> None:
    readout = ina3221.parse(tree_of("jetson_orin_agx.tree"))
    got = values(readout)
    rails = {
        "gpu-soc": 0.843 * 6.170,
        "cpu-cv": 0.780 * 3.437,
        "vin-sys-5v0": 4.968 * 0.953,
        "mem": 1.800 * 0.341,
    }
    for site, power in rails.items():
        assert got[f"{site}/power/W"] == pytest.approx(power)
    assert got["board/power/W"] == pytest.approx(sum(rails.values()))  # no rail carries all: a sum, which is noted
    assert any("sum of 4 rails" in note for note in readout.notes)
    assert not any(name.startswith(("nc", "sum-of")) for name in got)


def test_ina3221_of_jetpack_4() -> None:
    readout = ina3221.parse(tree_of("jetson_nano_jp4.tree"))
    got = values(readout)
    assert got["board/power/W"] == pytest.approx(2.532)  # POM_5V_IN carries all
    assert got["gpu/power/W"] == pytest.approx(0.118)  # power alone is enough
    assert got["cpu/power/W"] == pytest.approx(0.474)
    assert got["board/voltage/V"] == pytest.approx(5.064)


def test_ina238_of_a_thor() -> None:
    got = values(ina238.parse(tree_of("jetson_thor.tree")))
    assert got["board/power/W"] == pytest.approx(31.2)
    assert got["board/voltage/V"] == pytest.approx(19.8)
    assert got["board/current/A"] == pytest.approx(1.576)


def test_thermal_zones_with_junk() -> None:
    readout = thermal_zones.parse(tree_of("phone.tree"))
    assert values(readout) == {
        "cpu/temperature/degC": 41.2, "battery/temperature/degC": 31.0, "gpu/temperature/degC": 39.8,
    }  # fmt: skip
    assert "-40" in absent(readout)["board/temperature/degC"]
    jetson = thermal_zones.parse(tree_of("jetson_orin_agx.tree"))
    assert values(jetson)["soc/temperature/degC"] == 77.281


def test_tegrastats_of_an_agx_orin() -> None:
    readout = tegrastats.parse(text_of("tegrastats_orin_agx.txt"))
    got = values(readout)
    assert got["mem/used/B"] == 13983 << 20
    assert got["cpu0/load/ratio"] == 0.9
    assert got["cpu0/frequency/Hz"] == 2.201e9
    assert got["cpu/load/ratio"] == pytest.approx(0.51)
    assert got["gpu/load/ratio"] == 0.14
    assert got["gpu/frequency/Hz"] == 407e6
    assert got["mem/frequency/Hz"] == 2133e6
    assert got["cpu/temperature/degC"] == 77.281
    assert got["gpu-soc/power/W"] == 3.15
    assert got["cpu-cv/power/W"] == 14.312
    assert got["mem/power/W"] == 1.091
    assert got["board/power/W"] == pytest.approx(3.15 + 14.312 + 4.968 + 0 + 1.091)
    assert "off" in absent(readout)["cpu2/load/ratio"]
    assert any("-256" in reason for reason in absent(readout).values())
    assert readout.facts["tegrastats_time"] == "11-21-2025 08:49:48"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (0, {"board/power/W": 3.123, "soc/power/W": 0.938, "cpu-gpu-cv/power/W": 0.489, "gpu/frequency/Hz": 114e6}),
        (1, {"board/power/W": 2.532, "gpu/power/W": 0.118, "cpu/power/W": 0.474, "gpu/load/ratio": 0.99}),
        (2, {"cpu/power/W": 0.311, "gpu/power/W": 0.0, "mem/power/W": 0.155, "cpu0/frequency/Hz": 1.19e9}),
        (3, {"board/power/W": 31.2, "gpu/frequency/Hz": 1e9, "gpu/power/W": 4.321, "soc/temperature/degC": 47.2}),
    ],
)
def test_tegrastats_variants(row: int, expected: dict[str, float]) -> None:
    got = values(tegrastats.parse(text_of("tegrastats_variants.txt").splitlines()[row]))
    assert {name: got.get(name, math.nan) for name in expected} == pytest.approx(expected)
    if row == 3:
        assert "gpu/load/ratio" not in got  # Thor gives clocks only: no 0 in its place


def test_power_mode() -> None:
    assert nvpmodel.parse(text_of("nvpmodel.txt")) == nvpmodel.PowerMode("MODE_30W", 2)
    with pytest.raises(TelemetryError, match="Jetson"):
        nvpmodel.parse("bash: nvpmodel: command not found\n")


# iOS


def test_ios_lines() -> None:
    battery, charging, app = (ios_json.parse(line) for line in text_of("ios_battery.jsonl").splitlines())
    assert values(battery) == pytest.approx(
        {
            "battery/current/A": 0.312, "battery/voltage/V": 4.123, "battery/charge_share/ratio": 0.85,
            "battery/temperature/degC": 29.8, "battery/charging/flag": 0.0, "battery/power/W": 0.312 * 4.123,
        }
    )  # fmt: skip
    assert values(charging)["battery/current/A"] == pytest.approx(-1.45)
    assert values(app) == {"process/footprint/B": 123456789.0, "soc/throttle/level": 1.0}


# What they share


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("AP", "soc"), ("BATTERY", "battery"), ("VIRTUAL-SKIN", "skin"), ("tj", "soc"), ("G3D", "gpu"),
        ("cpu-1-2-usr", "cpu"), ("x86_pkg_temp", "cpu"), ("gpuss-1", "gpu"), ("npu", "npu"), ("SOMETHING", "something"),
    ],
)  # fmt: skip
def test_names_classify(name: str, site: str) -> None:
    assert site_of(name) == site


def test_a_real_folder_reads_as_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("phone.tree", "jetson_orin_agx.tree", "pixel_odpm.tree"):
        root = tmp_path / name
        write_tree(name, root)
        for parser in (power_supply, thermal_zones, cpufreq, odpm, ina3221):
            assert parser.parse(LocalTree(root)) == parser.parse(tree_of(name))
    monkeypatch.setenv("MELT_SYSFS_ROOT", str(tmp_path / "phone.tree/sys"))
    assert values(cpufreq.parse(LocalTree()))["cpu-policy7/frequency/Hz"] == 2.8416e9


def test_merging_keeps_the_first_of_a_channel() -> None:
    first = power_supply.parse(tree_of("phone.tree"))
    second = dumpsys_battery.parse(text_of("battery_samsung.txt"))
    both = merged([first, second])
    assert both.value("battery", "temperature") == first.value("battery", "temperature")
    assert "second source" in absent(both)["battery/temperature/degC"]
    assert math.isnan(both.value("battery", "nothing"))


@pytest.mark.parametrize(
    "parse",
    [
        dumpsys_battery.parse, thermalservice.parse, dumpsys_cpuinfo.parse, memory.parse_status, memory.parse_meminfo,
        memory.parse_smaps_rollup, tegrastats.parse, nvpmodel.parse, ios_json.parse,
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", ["", "Can't find service: battery", "x" * (2 << 20), "\n" * 30_000])
def test_what_is_not_of_the_format_is_a_typed_error(parse: object, text: str) -> None:
    with pytest.raises(TelemetryError):
        parse(text)  # type: ignore[operator]
