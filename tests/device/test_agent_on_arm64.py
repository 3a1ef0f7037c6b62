"""The cross-built agent on devices with another processor: through real adb on a phone, through real ssh on a board."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.adb_phone import Phone
from fakes.needs import lacking
from melt_core.errors import TransientDeviceError
from melt_core.trace import Trace
from melt_core.transports import LineChannel, RemotePath, Transport

BUILDS = Path(__file__).parents[2] / "build/cross"
AGENT = RemotePath.of("bin/melt-agent")
MODEL = RemotePath.of("models/tiny.gguf")
#: Emulated threads wait for each other in spinning barriers: one thread, and time.
REQUEST = {
    "model": str(MODEL),
    "prompt_tokens": 4,
    "max_tokens": 4,
    "n_ctx": 64,
    "n_threads": 1,
    "levels": ["tokens", "ops"],
}
PATIENCE_S = 120.0


def agent_of(preset: str) -> Path:
    """Returns the agent that `make cross` leaves."""
    path = BUILDS / preset / "melt-agent"
    if not path.exists():
        lacking(f"no agent for this device: run `make cross PRESET={preset}`")
    return path


def ask(channel: LineChannel, op: str, **fields: Any) -> dict[str, Any]:
    channel.send(json.dumps({"id": 1, "op": op, **fields}).encode())
    answer: dict[str, Any] = json.loads(channel.receive(timeout_s=PATIENCE_S))
    assert answer["ok"], answer
    return answer


def start_agent(transport: Transport) -> LineChannel:
    return transport.open_channel([transport.resolve(AGENT), "--work", transport.work_dir])


def wait_for_end(transport: Transport, run: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    with start_agent(transport) as channel:
        while (status := ask(channel, "status", run=run))["state"] in ("queued", "running"):
            assert time.monotonic() < end, status
            time.sleep(0.2)
    return status


@pytest.fixture(params=[("arm64_phone", "android-static"), ("arm64_board", "jetson")], ids=["phone", "board"])
def device(request: pytest.FixtureRequest, tiny_llama: Path) -> Transport:
    """A device on which the agent and a tiny model are."""
    name, preset = request.param
    agent = agent_of(preset)
    transport: Transport = request.getfixturevalue(name)
    transport.push(agent, AGENT, executable=True)
    transport.push(tiny_llama, MODEL)
    return transport


def test_agent_says_hello(device: Transport) -> None:
    with start_agent(device) as channel:
        hello = ask(channel, "hello", protocol=1, host="tests")
        hashed = ask(channel, "hash", path=str(MODEL))
    assert (hello["protocol"], hello["arch"]) == (1, "aarch64")
    assert hello["missing_features"] == []
    assert hello["free_bytes"] > 0
    # The transport's account of the file is the agent's too.
    assert hashed["sha256"] == device.run(["sha256sum", device.resolve(MODEL)]).text.split()[0]


def test_run_comes_back_as_a_trace(device: Transport, tmp_path: Path) -> None:
    # WHEN a model runs there, while nobody is connected
    with start_agent(device) as channel:
        ask(channel, "start", run="r1", request=REQUEST)
    status = wait_for_end(device, "r1")
    # THEN its trace comes back whole
    assert status["state"] == "done", status
    pulled = device.pull(RemotePath.of("runs/r1/trace.melt"), tmp_path / "x.melt")
    assert pulled.sha256 == status["trace_sha256"] == hashlib.sha256((tmp_path / "x.melt").read_bytes()).hexdigest()
    trace = Trace.open(tmp_path / "x.melt")
    assert len(trace.tokens) > 0
    assert len(trace.ops) > 0
    assert len(status["output_ids"]) == 4


def test_run_goes_on_when_the_cable_is_pulled(
    arm64_phone_on_cable: Phone, arm64_phone: Transport, tiny_llama: Path, tmp_path: Path
) -> None:
    # GIVEN a run on a phone, and a cable that is pulled while it goes on
    agent = agent_of("android-static")
    arm64_phone.push(agent, AGENT, executable=True)
    arm64_phone.push(tiny_llama, MODEL)
    with start_agent(arm64_phone) as channel:
        ask(channel, "start", run="r2", request={**REQUEST, "max_tokens": 24})
        arm64_phone_on_cable.plug_out()
        with pytest.raises(TransientDeviceError):
            ask(channel, "status", run="r2")
    # WHEN it is back, THEN nothing is lost
    arm64_phone_on_cable.attach()
    status = wait_for_end(arm64_phone, "r2")
    assert status["state"] == "done", status
    assert len(status["output_ids"]) == 24
    assert arm64_phone.pull(RemotePath.of("runs/r2/trace.melt"), tmp_path / "x.melt").sha256 == status["trace_sha256"]


def test_an_agent_for_glibc_does_not_start_on_a_phone(arm64_phone: Transport) -> None:
    arm64_phone.push(agent_of("jetson"), AGENT, executable=True)
    result = arm64_phone.run([arm64_phone.resolve(AGENT), "--version"])
    assert result.exit_code != 0
    assert b"ld-linux-aarch64" in result.stderr
