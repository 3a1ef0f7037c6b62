"""What a device must never do to a run or to its network, looked at from outside."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.errors import CancelledError, DeviceBusyError, InvalidArgumentError, TransientDeviceError
from melt_core.trace import Trace
from melt_core.transports import LineChannel, LocalTransport, RemotePath

from .long_runs import once_running, run_process

REQUEST = {
    "prompt_tokens": 8, "max_tokens": 100, "repeats": 500, "warmup": 0, "n_ctx": 256, "n_threads": 1,
    "overhead_budget_s": 0.0, "levels": ["tokens"], "sensors": ["none"],
}  # fmt: skip
MEASUREMENT = Measurement(REQUEST, limits=GateLimits(wait_s=0), telemetry_s=0, poll_s=0.1)


@pytest.fixture
def local(state: Path, tmp_path: Path) -> Device:
    return Device(LocalTransport(tmp_path / "work"))


def sockets_of(pid: int) -> list[str]:
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:")]


def test_neither_agent_nor_run_has_a_socket(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    found: dict[str, list[str]] = {}

    def look() -> None:
        (entry,) = Journal().entries()
        run = run_process(tmp_path / "work", entry.run)
        found["agent"] = sockets_of(local.hello().integer("pid"))
        found["run"] = sockets_of(run)
        os.kill(run, signal.SIGINT)

    with local, pytest.raises(CancelledError):
        local.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=once_running(look))
    assert found == {"agent": [], "run": []}


def test_a_run_that_others_ended_is_no_success(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    # WHEN the device's system asks the run to end, as before a shutdown
    def end() -> None:
        (entry,) = Journal().entries()
        os.kill(run_process(tmp_path / "work", entry.run), signal.SIGTERM)

    with local, pytest.raises(CancelledError, match=r"before it was complete.*x\.melt"):
        local.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=once_running(end))
    # THEN what it measured is there, and the next run is one of its own
    trace = Trace.open(tmp_path / "x.melt")
    assert trace.complete
    assert 1 <= len(trace.runs) < 500
    assert not Journal().entries()


def test_what_is_pushed_reaches_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a device whose `sync` tells what it was asked, and what was there then
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sync").write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/synced"; ls "${{1%/*}}" >> "{tmp_path}/there"\n'
    )
    (programs / "sync").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    source = tmp_path / "source"
    source.write_bytes(b"weights" * 1000)
    with LocalTransport(tmp_path / "work") as transport:
        transport.push(source, RemotePath.of("models/x"))
    # THEN that was the part, and the name was not there yet
    assert (tmp_path / "synced").read_text().strip().endswith(".part")
    assert "x" not in (tmp_path / "there").read_text().splitlines()
    assert (tmp_path / "work/models/x").read_bytes() == source.read_bytes()


def test_a_device_that_is_rarely_asked_is_asked_rarely(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] in ("repetition", "load"):
            seen.append(time.monotonic())

    quiet = replace(MEASUREMENT, request={**REQUEST, "repeats": 20}, poll_s=1.5)
    with local:
        assert local.measure(str(tiny_llama), quiet, output=str(tmp_path / "x.melt"), on_event=note).trace.complete
    assert all(later - earlier >= 1.4 for earlier, later in itertools.pairwise(seen))
    with pytest.raises(InvalidArgumentError, match="poll_s"):
        Measurement(REQUEST, poll_s=0)


class Forgetful(LocalTransport):
    """Loses the answer to the first `start`, as a cable does that is pulled just then."""

    lost = 0

    def open_channel(self, argv: Any, **options: Any) -> LineChannel:
        channel = super().open_channel(argv, **options)
        send, receive = channel.send, channel.receive
        asked: list[bytes] = []

        def noted(line: bytes, **more: Any) -> None:
            asked.append(line)
            send(line, **more)

        def losing(**more: Any) -> bytes:
            line = receive(**more)
            if b'"start"' in asked[-1] and not self.lost:
                self.lost += 1
                raise TransientDeviceError("the cable was pulled")
            return line

        channel.send, channel.receive = noted, losing  # type: ignore[method-assign]
        return channel


def test_a_run_whose_start_was_not_confirmed_is_started_once(state: Path, tmp_path: Path) -> None:
    request = {"runtime": "synthetic", "prompt": "x", "max_tokens": 3, "repeats": 2, "sensors": ["none"]}
    transport = Forgetful(tmp_path / "work")
    with Device(transport) as device:
        done = device.measure("layers=1", replace(MEASUREMENT, request=request), output=str(tmp_path / "x.melt"))
    assert transport.lost == 1
    assert done.trace.complete
    assert len(done.trace.runs) == 3


def test_nothing_is_sent_to_a_device_that_another_host_has(
    local: Device, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local:
        local.agent().ask("lease", ttl_s=60)
        monkeypatch.setenv("MELT_STATE_DIR", str(tmp_path / "other-host"))
        with Device(LocalTransport(tmp_path / "work")) as other:
            with pytest.raises(DeviceBusyError):
                other.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"))
            with pytest.raises(DeviceBusyError):
                other.bring(str(tiny_llama))
    assert not (tmp_path / "work/models").exists()
