"""No parser fails with anything but its typed error, whatever a device says, nor gives a number that cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.device_texts import text_of, tree_of
from melt_core.devices.telemetry import (
    Readout,
    SnapshotTree,
    cpufreq,
    dumpsys_battery,
    dumpsys_cpuinfo,
    dumpsys_power,
    ina238,
    ina3221,
    ios_json,
    memory,
    nvpmodel,
    odpm,
    power_supply,
    snapshot_of,
    tegrastats,
    thermal_zones,
    thermalservice,
)
from melt_core.errors import TelemetryError

TEXT_PARSERS: list[tuple[Callable[[str], object], str]] = [
    (dumpsys_battery.parse, "battery_samsung.txt"),
    (thermalservice.parse, "thermalservice_a52.txt"),
    (dumpsys_cpuinfo.parse, "cpuinfo.txt"),
    (dumpsys_power.parse, "power_awake.txt"),
    (memory.parse_status, "status.txt"),
    (memory.parse_smaps_rollup, "smaps_rollup.txt"),
    (tegrastats.parse, "tegrastats_orin_agx.txt"),
    (nvpmodel.parse, "nvpmodel.txt"),
    (ios_json.parse, "ios_battery.jsonl"),
    (cpufreq.time_in_state, "status.txt"),
    (odpm.energies, "status.txt"),
]
TREE_PARSERS = [
    (power_supply.parse, "phone.tree"),
    (thermal_zones.parse, "phone.tree"),
    (cpufreq.parse, "phone.tree"),
    (odpm.parse, "pixel_odpm.tree"),
    (ina3221.parse, "jetson_orin_agx.tree"),
    (ina3221.parse, "jetson_nano_jp4.tree"),
    (ina238.parse, "jetson_thor.tree"),
]
NASTY = st.sampled_from(
    ["nan", "-inf", "1e999", "9" * 400, "-1", "\0", "٣", "²", "{", "}", "[", "%", "@", "\udc80", "0x10"]
)
FILLING = st.one_of(st.text(max_size=60), NASTY)


def check(result: object) -> None:
    if not isinstance(result, Readout):
        return
    assert len(result.readings) < 2000
    names = [reading.channel.name for reading in result.readings]
    assert len(names) == len(set(names))
    for reading in result.readings:
        assert math.isfinite(reading.value)
        assert reading.channel.site.isascii()
        assert 0 < len(reading.channel.site) <= 31
        if reading.channel.kind == "temperature":
            assert -35 <= reading.value <= 200


def check_call(call: Callable[[], object]) -> None:
    message = ""
    try:
        check(call())
    except TelemetryError as error:
        message = str(error)
    assert len(message) < 400


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Draws a text in which pieces were replaced, cut out or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        text = text[:start] + draw(FILLING) + text[end:] + draw(st.sampled_from(["", text[start:end]]))
    return text


@pytest.mark.parametrize(("parse", "name"), TEXT_PARSERS, ids=lambda value: getattr(value, "__module__", value))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_texts(parse: Callable[[str], object], name: str, data: st.DataObject) -> None:
    text = data.draw(st.one_of(damaged(text_of(name)), st.text(max_size=300)))
    check_call(lambda: parse(text))


@pytest.mark.parametrize(("parse", "name"), TREE_PARSERS, ids=lambda value: getattr(value, "__module__", value))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_trees(parse: Callable[[SnapshotTree], object], name: str, data: st.DataObject) -> None:
    tree = tree_of(name)
    files = {path: tree.read(path) or "" for path in _paths(tree, "/")}
    for path in data.draw(st.lists(st.sampled_from(sorted(files)), max_size=6)):
        if data.draw(st.booleans()):
            files.pop(path, None)
        else:
            files[path] = data.draw(FILLING)
    check_call(lambda: parse(SnapshotTree(files)))


@settings(max_examples=100, deadline=None)
@given(text=damaged(text_of("phone.tree")))
def test_snapshots_hold_only_what_was_asked_for(text: str) -> None:
    asked = ["/proc/meminfo", "/sys/class/power_supply/battery/type"]
    tree = snapshot_of(text, asked)
    assert set(_paths(tree, "/")) <= set(asked)


def _paths(tree: SnapshotTree, folder: str) -> list[str]:
    found = []
    for name in tree.entries(folder):
        path = f"{folder.rstrip('/')}/{name}"
        found += [path] if tree.read(path) is not None else _paths(tree, path)
    return found
