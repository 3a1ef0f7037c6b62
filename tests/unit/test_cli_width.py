"""Nothing that a command prints is wider than a terminal of 80 columns; paths and addresses alone may be."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.trace_builder import METADATA, TraceBuilder, toy_trace
from melt_core.cli import doctor
from melt_core.cli.main import COMMANDS, build_parser, main
from melt_core.devices import discovery
from melt_core.devices.discovery import Discovery, Listed
from melt_core.profiling.doctor import Finding

COLUMNS = 80


def too_wide(text: str) -> list[str]:
    """Returns the lines that are too wide, but for those that hold little else than a path or an address."""
    return [
        line
        for line in text.splitlines()
        if len(line) > COLUMNS and max(map(len, re.findall(r"\S*[/:]\S*", line)), default=0) < COLUMNS - 20
    ]


def sub_commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields each command and each action of a command."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from sub_commands(sub, (*path, name))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("MELT_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.melt").write_bytes(toy_trace())
    return "toy.melt"


@pytest.mark.parametrize("command", list(sub_commands(build_parser())), ids=" ".join)
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: melt")
    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize(
    "command",
    [
        ["summary", "TOY"],
        *(["ops", "TOY", "--by", key] for key in ("op_type", "layer", "thread", "weight", "name")),
        ["compare", "TOY", "TOY"],
        ["memory", "TOY", "--activations"],
        ["models", "list"],
        ["doctor"],
        ["devices", "list", "local"],
        ["devices", "runs"],
    ],
    ids=" ".join,
)
def test_output(command: list[str], toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([toy if word == "TOY" else word for word in command]) in (0, 1)
    captured = capsys.readouterr()
    assert too_wide(captured.out) == []
    assert captured.out or captured.err


def test_devices_keep_their_address_and_their_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = Listed(
        "adb:R5CT1234567890", "in use by bench", "Galaxy S23 Ultra 5G (SM-S918B)", "Snapdragon 8 Gen 2",
        "Android 14, Linux 5.15.123-android13", 8, 12e9, 6e9, 0.8, 31.5,
    )  # fmt: skip
    far = Listed("ssh:someone@a-board-with-a-name.example.org:2222", "unreachable", why="refused: " + "a reason " * 20)
    found = Discovery((phone, far), ("ios: the program pymobiledevice3 is not on the path",))
    monkeypatch.setattr(discovery, "discover", lambda *, uris: found)
    assert main(["devices"]) == 0
    captured = capsys.readouterr()
    assert max(map(len, (captured.out + captured.err).splitlines())) <= COLUMNS
    for device in (phone, far):
        assert any(line.startswith(f"{device.uri} ") and device.state in line for line in captured.out.splitlines())
    assert "no room for: " in captured.out
    # what could not be searched is a note below the table, no error
    assert captured.out.splitlines()[-1] == "not searched: ios: the program pymobiledevice3 is not on the path"
    assert "not searched" not in captured.err


def test_no_open_runs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "runs"]) == 0
    assert capsys.readouterr().out == "no open runs\n"
    assert main(["devices", "runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_absent_sensors_are_folded_with_their_reasons() -> None:
    findings = [
        Finding("machine", "ok", "a CPU"),
        Finding("sensor hwmon", "absent", "/sys/class/hwmon: No such file or directory"),
        Finding("sensor thermal", "ok", "cpu/temperature"),
        Finding("sensor ina3221", "absent", "/sys/class/hwmon: No such file or directory"),
        Finding("sensor rapl", "absent", "/sys/class/powercap: No such file or directory"),
        Finding("sensor app", "absent", "no app tells of its device"),
    ]
    *shown, (state, subject, detail) = doctor._folded(findings)
    assert [row[1] for row in shown] == ["machine", "sensor thermal"]
    assert (state, subject) == ("absent", "sensors")
    assert detail == (
        "no such file or directory: /sys/class/hwmon (hwmon, ina3221), /sys/class/powercap (rapl); "
        "app: no app tells of its device"
    )
    assert doctor._folded(findings[:1]) == [("ok", "machine", "a CPU")]


def test_energy_without_sensors_gives_a_line_per_reason(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    absent = {
        "hwmon": "/sys/class/hwmon: No such file or directory",
        "ina3221": "/sys/class/hwmon: No such file or directory",
        "rapl": "/sys/class/powercap: No such file or directory",
        "battery": "a reason that is so long that it does not fit into one line of a terminal of this width",
    }
    builder = TraceBuilder()
    builder.metadata({**METADATA, "sensors": {"absent": absent}})
    Path("t.melt").write_bytes(builder.finish())
    assert main(["energy", "t.melt"]) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith("melt: error: t.melt has no readings of power or energy")
    assert "  hwmon, ina3221: /sys/class/hwmon: No such file or directory" in lines
    assert "  rapl: /sys/class/powercap: No such file or directory" in lines


def test_every_command_is_looked_at() -> None:
    assert {path[0] for path in sub_commands(build_parser()) if path} == set(COMMANDS)
