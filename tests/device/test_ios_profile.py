"""A whole profile on an iOS device: the real client and the real agent; the host's tool between them is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt
import melt_core._core
from melt_core.devices import Device, GateLimits, Measurement, observing
from melt_core.devices.discovery import describe
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.errors import DeviceError, MeltError, TransientDeviceError
from melt_core.transports import IosTransport
from melt_core.transports.ios_mailbox import MailboxChannel

from .long_runs import once_running

UDID = "00008110-000A1B2C3D4E801E"
BUNDLE = "org.melt-core.agent"
TOOL = Path(__file__).parents[1] / "fakes/pymobiledevice3.py"
AGENT = Path(melt_core._core.__file__).parent / "agents/host/melt-agent"
SYNTHETIC = "layers=2,op_ns=20000"
QUICK = {"runtime": "synthetic", "prompt": "Hello", "max_tokens": 4, "repeats": 2, "overhead_budget_s": 0.0}
#: Simulated time passes at once; real time passes by the number of repetitions.
LONG = {**QUICK, "max_tokens": 100, "repeats": 2000, "levels": ["tokens"], "n_threads": 1, "n_ctx": 256}


class IosDevice:
    """The folder that stands for the device, and the app that may run on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents = root / "Documents"
        self.documents.mkdir(parents=True)
        self.describe()

    def describe(self, **faults: Any) -> None:
        battery = {"InstantAmperage": -312, "Temperature": 2940, "Voltage": 4120, "IsCharging": False}
        description = {"udid": UDID, "bundle": BUNDLE, "battery": battery, "agent": str(AGENT), **faults}
        scratch = self.root / "device.json.new"
        scratch.write_text(json.dumps(description))
        scratch.replace(self.root / "device.json")

    def end_app(self) -> None:
        """What the system does with an app in the background, or its user."""
        kept = self.root / "app.pid"
        if kept.exists():
            os.kill(int(kept.read_text()), signal.SIGKILL)
            kept.unlink()


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Path) -> Iterator[IosDevice]:
    monkeypatch.setenv("FAKE_IOS", str(tmp_path / "ios"))
    monkeypatch.setattr(observing, "BURST_S", 0.5)
    monkeypatch.setattr("melt_core.transports.ios._RUNNING_ANSWER_S", 2.0)
    patient = MailboxChannel.receive
    monkeypatch.setattr(MailboxChannel, "receive", lambda self, timeout_s=3: patient(self, timeout_s=min(timeout_s, 3)))
    made = IosDevice(tmp_path / "ios")
    yield made
    made.end_app()


@pytest.fixture
def device(phone: IosDevice) -> Iterator[Device]:
    with Device(IosTransport(UDID, tool=[sys.executable, str(TOOL)])) as made:
        yield made


@pytest.fixture
def tool_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/pymobiledevice3"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TOOL}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_it_is_described_without_its_app(phone: IosDevice, tool_on_path: None) -> None:
    listed = describe(f"ios:{UDID}")
    assert (listed.state, listed.os, listed.temperature_c) == ("ready", "iOS", pytest.approx(29.4))
    assert not (phone.root / "app.pid").exists()
    phone.describe(usbmuxd="down")
    assert describe(f"ios:{UDID}").state == "unreachable"


def test_connect_load_profile(phone: IosDevice, tool_on_path: None, tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN a model file with a name that a shell could read as more
    model = tmp_path / "tiny; $(x).gguf"
    model.symlink_to(tiny_llama)
    options = {"max_tokens": 4, "repeats": 2, "overhead_budget_s": 0.0}
    # WHEN it is profiled there as anywhere
    with melt.connect(f"ios:{UDID}") as ios:
        with melt.load(model, device=ios, n_threads=1, n_ctx=64) as llm, melt.profile(llm, sensors="none") as prof:
            done = prof.run([1, 5, 9, 13], **options)
        held = ios.held_bytes()
        cleaned = ios.clean()
        left = ios.held_bytes()
    # THEN the trace is that of this host, with what only a device's has
    with melt.load(model, n_threads=1, n_ctx=64) as llm, melt.profile(llm, sensors="none") as own:
        assert own.run([1, 5, 9, 13], **options).token_ids == done.token_ids
    assert len(prof.trace.ops) == len(own.trace.ops) > 0
    assert prof.trace.complete
    assert prof.trace.metadata["transport"] == "ios"
    assert prof.trace.metadata["device_info"]["platform"] == "ios-arm64"
    assert 0 < prof.trace.metadata["clock_alignment"]["error_us"] < 5e6
    assert prof.trace.metadata["model_file"] == {
        "sha256": prof.trace.metadata["model_file"]["sha256"], "file_bytes": model.stat().st_size
    }  # fmt: skip
    assert "battery" in set(prof.trace.samples["site"])
    assert held["models"] == model.stat().st_size
    assert cleaned >= held["models"]
    assert left.get("models", 0) == left.get("runs", 0) == 0
    assert not Journal().entries()


def test_cable_pulled_during_the_run(phone: IosDevice, device: Device, tmp_path: Path) -> None:
    def pull() -> None:
        phone.describe(usbmuxd="down")
        threading.Timer(1.0, phone.describe).start()

    events = once_running(pull)
    measurement = Measurement(LONG, limits=GateLimits(wait_s=0), telemetry_s=0, patience=Patience(30, 40.0))
    trace = device.measure(SYNTHETIC, measurement, output=str(tmp_path / "x.melt"), on_event=events).trace
    assert trace.complete
    assert len(trace.runs) == 2001


def test_an_app_that_is_ended_loses_its_run_and_says_so(phone: IosDevice, device: Device, tmp_path: Path) -> None:
    measurement = Measurement({**LONG, "repeats": 200000}, limits=GateLimits(wait_s=0), telemetry_s=0)
    with pytest.raises(MeltError, match=r"ended from outside.*x\.melt"):
        device.measure(SYNTHETIC, measurement, output=str(tmp_path / "x.melt"), on_event=once_running(phone.end_app))
    assert len(melt.Trace.open(tmp_path / "x.melt").runs) >= 1
    assert not Journal().entries()


def test_the_trace_of_a_lost_run_is_compared_with_the_devices_own(
    phone: IosDevice, device: Device, tmp_path: Path
) -> None:
    def end() -> None:
        phone.end_app()
        phone.describe(damage_pull_of="trace.melt")

    measurement = Measurement({**LONG, "repeats": 200000}, limits=GateLimits(wait_s=0), telemetry_s=0)
    with pytest.raises(DeviceError, match="not the one that the agent wrote"):
        device.measure(SYNTHETIC, measurement, output=str(tmp_path / "x.melt"), on_event=once_running(end))
    assert not (tmp_path / "x.melt").exists()
    (entry,) = Journal().entries()
    phone.describe()
    with pytest.raises(MeltError, match=r"ended from outside.*x\.melt"):
        device.resume(entry.run)
    assert len(melt.Trace.open(tmp_path / "x.melt").runs) >= 1


def test_an_app_that_empties_its_mailbox_is_asked_again(
    phone: IosDevice, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an app that was ended, and its folders from before; it starts slowly, after the host has asked
    monkeypatch.setattr("melt_core.transports.ios._PING_AGAIN_S", 1.0)
    (phone.documents / "mailbox").mkdir()
    slow = phone.root / "slow-agent"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec "{AGENT}" "$@"\n')
    slow.chmod(0o755)
    phone.describe(agent=str(slow))
    with device.transport.open_channel([]) as channel:
        channel.send(b'{"id": 1, "op": "runs"}')
        assert json.loads(channel.receive())["ok"]


def test_the_app_is_not_started_anew_while_it_runs(phone: IosDevice, device: Device) -> None:
    first = device.hello().integer("pid")
    device.close()
    assert device.hello().integer("pid") == first


def test_developer_mode_off_is_said(phone: IosDevice, device: Device) -> None:
    phone.describe(developer_mode=False)
    with pytest.raises(DeviceError, match="Developer Mode") as caught:
        device.agent()
    assert not isinstance(caught.value, TransientDeviceError)


def test_models_of_several_files_are_refused(device: Device, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="one runtime"):
        device.bring(str(tmp_path), runtime="mlc")
