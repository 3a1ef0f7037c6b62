"""A device that lies: whatever its agent answers, the host soon ends with a typed error, and writes nothing else."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.trace_builder import toy_trace
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.agents import package_version
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.errors import DeviceError, InvalidArgumentError, MeltError, TraceError
from melt_core.trace import Trace
from melt_core.transports import LocalTransport

MEASUREMENT = Measurement(
    {"runtime": "synthetic", "prompt": "x"},
    limits=GateLimits(wait_s=0),
    telemetry_s=0,
    patience=Patience(attempts=2, total_s=2.0),
    timeout_s=2.0,
)
#: Answers of an honest agent; a test replaces some. DATA is the trace that it leaves.
AGENT = """
#!{python}
import hashlib, json, os, sys
work = sys.argv[sys.argv.index("--work") + 1]
replies = json.loads({replies!r})
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "start":
        folder = os.path.join(work, "runs", request["run"])
        os.makedirs(folder)
        with open(os.path.join(folder, "trace.melt"), "wb") as file:
            file.write(bytes.fromhex({data!r}))
    raw = replies.get(request["op"], {{"ok": True}})
    if isinstance(raw, str):
        print(raw, flush=True)
    else:
        print(json.dumps({{"id": request["id"], **raw}}), flush=True)
"""
HELLO = {"ok": True, "protocol": 1, "version": package_version(), "free_bytes": 1 << 40}
CLOCK = {"ok": True, "steady_ns": 5, "wall_ns": 10, "boot_id": "x"}


def device_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, data: bytes = b"", **replies: Any) -> Device:
    agent = tmp_path / "melt-agent"
    answers = {"hello": HELLO, "clock": CLOCK, **replies}
    text = AGENT.format(python=sys.executable, replies=json.dumps(answers), data=data.hex())
    agent.write_text(textwrap.dedent(text).lstrip())
    agent.chmod(0o755)
    monkeypatch.setenv("MELT_AGENT", str(agent))
    return Device(LocalTransport(tmp_path / "work"))


@pytest.mark.parametrize(
    "reply",
    [
        "no JSON at all",
        "[]",
        "{}",
        "null",
        '{"id": 1}',
        '{"id": 1, "ok": "yes"}',
        '{"id": 99, "ok": true}',
        json.dumps({"id": 99, **HELLO}),  # the answer to another request
        '{"id": 1, "ok": true, "version": 7, "protocol": 1}',
        '{"id": 1, "ok": true, "version": NaN, "protocol": 1}',
        '{"id": 1, "ok": true, "version": "' + "9" * 5000 + '", "protocol": 1}',
        '{"id": 1, "ok": false}',
        '{"id": 1, "ok": false, "error": "no"}',
        '{"id": 1, "ok": false, "error": {"kind": "SystemExit", "message": 3}}',
        '{"id": 1, "ok": false, "error": {"kind": "MissingExtraError", "message": "x"}}',
        '{"id": 1, "ok": true, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "9" * (1 << 20) + "9",
    ],
    ids=lambda text: text[:40],
)
def test_answers_that_are_none(reply: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with device_that(tmp_path, monkeypatch, hello=reply) as device, pytest.raises(MeltError) as caught:
        device.agent()
    assert len(str(caught.value)) < 3000
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("hello", [{**HELLO, "version": "0.0.1"}, {**HELLO, "protocol": 2}])
def test_an_agent_of_another_version_is_not_used(
    hello: dict[str, Any], state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_that(tmp_path, monkeypatch, hello=hello) as device, pytest.raises(DeviceError, match="make cross"):
        device.agent()


@pytest.mark.parametrize(
    "status",
    [
        {"ok": True},
        {"ok": True, "state": 1},
        {"ok": True, "state": "done", "trace_bytes": -1},
        {"ok": True, "state": "done", "trace_bytes": 1 << 62},
        {"ok": True, "state": "done", "trace_bytes": "many"},
        {"ok": True, "state": "done", "trace_bytes": True},
        {"ok": True, "state": "running", "repetitions": 1e300},
        {"ok": True, "state": "running"},
        {"ok": True, "state": "no state of ours"},
        {"ok": True, "state": "done", "trace_bytes": 100, "trace_sha256": "../../etc/passwd"},
        {"ok": True, "state": "failed", "trace_bytes": 0, "error": {"kind": "ModelError", "message": "m" * 100_000}},
        {"ok": False, "error": {"kind": "InvalidArgumentError", "message": "no such run"}},
    ],
    ids=str,
)
def test_statuses_that_cannot_be(
    status: dict[str, Any], state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.rglob("*"))
    with (
        device_that(tmp_path, monkeypatch, data=bytes(100), status=status) as device,
        pytest.raises(MeltError) as caught,
    ):
        device.measure("layers=1", MEASUREMENT, output=str(tmp_path / "x.melt"))
    assert len(str(caught.value)) < 5000
    written = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert written <= {"work", "melt-agent"}


def test_a_trace_that_is_none_goes_to_its_place_as_it_came(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {"ok": True, "state": "done", "trace_bytes": 300}
    with (
        device_that(tmp_path, monkeypatch, data=b"garbage" * 50, status=status) as device,
        pytest.raises(DeviceError),  # 350 bytes where 300 were announced
    ):
        device.measure("layers=1", MEASUREMENT, output=str(tmp_path / "x.melt"))
    status["trace_bytes"] = 350
    (entry,) = Journal().entries()
    with (
        device_that(tmp_path, monkeypatch, data=b"garbage" * 50, status=status) as device,
        pytest.raises(TraceError, match="as it came"),
    ):
        device.resume(entry.run)
    assert (tmp_path / "x.melt").read_bytes() == b"garbage" * 50
    assert not Journal().entries()


@pytest.mark.parametrize("ids", [7, ["1"], [-1], [1 << 31], [True], [1.5], [[1]]], ids=str)
def test_token_ids_that_cannot_be(ids: Any, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_trace()
    status = {"ok": True, "state": "done", "trace_bytes": len(data), "output_ids": ids}
    with (
        device_that(tmp_path, monkeypatch, data=data, status=status) as device,
        pytest.raises(DeviceError, match="token ids"),
    ):
        device.measure("layers=1", MEASUREMENT, output=str(tmp_path / "x.melt"))
    assert Trace.open(tmp_path / "x.melt").complete  # what was measured is here all the same


def test_clocks_that_cannot_be(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clock in ({"ok": True}, {**CLOCK, "steady_ns": -1}, {**CLOCK, "steady_ns": 1.5}, {**CLOCK, "boot_id": 7}):
        with device_that(tmp_path, monkeypatch, clock=clock) as device, pytest.raises(DeviceError):
            device.measure("layers=1", MEASUREMENT, output=str(tmp_path / "x.melt"))
        assert not Journal().entries()


def test_an_agent_that_hangs_is_given_up(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "melt-agent"
    agent.write_text("#!/bin/sh\nsleep 600\n")
    agent.chmod(0o755)
    monkeypatch.setenv("MELT_AGENT", str(agent))
    began = time.monotonic()
    with Device(LocalTransport(tmp_path / "work")) as device, pytest.raises(DeviceError, match="timed out"):
        device._greeted(device.transport.resolve(_pushed(device)), timeout_s=0.5)
    assert time.monotonic() - began < 30


def _pushed(device: Device) -> Any:
    from melt_core.devices.agents import agent_files, deploy_agent

    return deploy_agent(device.transport, agent_files(device.info().platform)[0])


@pytest.mark.parametrize("name", ["a b'c;$(touch PWNED).gguf", "-rf.gguf", "new\nline.gguf", "ü\u202e.gguf", "x" * 240])
def test_model_names_are_only_names(name: str, state: Path, tmp_path: Path) -> None:
    model = tmp_path / name
    model.write_bytes(b"GGUF" + bytes(50))
    with Device(LocalTransport(tmp_path / "work")) as device:
        device.bring(str(model))
        (there,) = (tmp_path / "work/models").iterdir()
        assert there.read_bytes() == model.read_bytes()
    assert not list(tmp_path.rglob("PWNED"))


def test_an_open_run_is_not_taken_for_another_device(state: Path, tmp_path: Path) -> None:
    with (
        Device(LocalTransport(tmp_path / "work")) as device,
        pytest.raises(InvalidArgumentError, match="melt devices runs"),
    ):
        device.resume("20260101T000000-aabbccddeeff")
