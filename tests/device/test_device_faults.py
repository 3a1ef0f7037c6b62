"""The device fails while a run is measured on it: what was measured comes back, and the message says what to do."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.adb_phone import Phone
from melt_core.devices import Device, agents
from melt_core.devices.agents import Platform
from melt_core.devices.journal import Journal
from melt_core.errors import DeviceError, MeltError, TransientDeviceError
from melt_core.models.hashes import sha256_of
from melt_core.trace import Trace
from melt_core.transports import AdbTransport, LocalTransport, RemotePath

from .long_runs import LONG, MEASUREMENT, Once, check_whole, run_process


def test_run_killed_for_its_memory(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    def kill() -> None:
        (entry,) = Journal().entries()
        time.sleep(1.0)
        os.kill(run_process(tmp_path / "work", entry.run), signal.SIGKILL)

    act = Once(kill)
    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(MeltError, match="memory") as caught:
        local.measure(str(tiny_llama), endless, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert "x.melt" in str(caught.value)
    assert len(Trace.open(tmp_path / "x.melt").runs) >= 1  # what was measured until then
    assert not Journal().entries()


def test_agent_killed_while_it_serves(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(local.hello().integer("pid"), signal.SIGKILL)

    act = Once(kill)
    check_whole(local.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act).trace)
    act.join()


def test_device_restarted_during_the_run(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN a run whose processes are all gone, under another start of the system, as after a restart
    def restart() -> None:
        (entry,) = Journal().entries()
        time.sleep(1.0)
        status = tmp_path / "work/runs" / entry.run / "status.json"
        pid = run_process(tmp_path / "work", entry.run)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for one in (parent, pid):
            if one > 1:
                os.kill(one, signal.SIGKILL)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        later = status.with_suffix(".later")
        later.write_text(status.read_text().replace(boot, "00000000-0000-0000-0000-000000000000"))
        later.replace(status)  # at once, as the agent does: the host may be asking for it

    act = Once(restart)
    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(MeltError, match="restarted"):
        local.measure(str(tiny_llama), endless, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert len(Trace.open(tmp_path / "x.melt").runs) >= 1


def test_work_directory_removed_during_the_run(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    def remove() -> None:
        (entry,) = Journal().entries()
        pid = run_process(tmp_path / "work", entry.run)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        shutil.rmtree(tmp_path / "work/runs" / entry.run, ignore_errors=True)

    act = Once(remove)
    with pytest.raises(MeltError, match=r"work directory was removed|lost|signal"):
        local.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert not Journal().entries()


def test_disk_full(phone: Phone, adb: AdbTransport, state: Path, tiny_llama: Path) -> None:
    with Device(adb) as device:
        device.agent()
        digest = sha256_of(tiny_llama)
        models = Path(adb.work_dir) / "models"
        models.mkdir(exist_ok=True)
        part = models / f"{digest[:16]}-{tiny_llama.name}.{digest[:16]}.part"
        part.symlink_to("/dev/full")
        with pytest.raises(DeviceError, match=r"is full.*melt devices clean") as caught:
            device.bring(str(tiny_llama))
        assert not isinstance(caught.value, TransientDeviceError)


def test_wrong_architecture(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN an agent that was built for another processor, which nothing on this host emulates
    program = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
    struct.pack_into("<H", program, 18, 0x7FFF)  # e_machine
    agent = tmp_path / "melt-agent"
    agent.write_bytes(program)
    agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("MELT_AGENT", str(agent))
    with (
        Device(LocalTransport(tmp_path / "work")) as device,
        pytest.raises(DeviceError, match="architecture") as caught,
    ):
        device.agent()
    assert not isinstance(caught.value, TransientDeviceError)


def test_no_agent_for_the_device(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELT_AGENT", str(tmp_path / "missing"))
    with Device(LocalTransport(tmp_path / "work")) as device, pytest.raises(DeviceError, match="MELT_AGENT"):
        device.agent()


@pytest.mark.parametrize(
    ("platform", "how"),
    [
        (Platform("linux", "aarch64"), "`make cross PRESET=linux-arm64`,"),
        (Platform("android", "aarch64"), "`make cross PRESET=android-static`,"),
        (Platform("linux", os.uname().machine), "`make setup`,"),
        (Platform("linux", "riscv64"), "no preset"),
    ],
)
def test_how_to_get_an_agent_is_said(platform: Platform, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_places", lambda preset: [])  # nothing was built
    with pytest.raises(DeviceError, match=how):
        agents.agent_files(platform)


def test_in_termux_its_own_agent_measures_on_the_phone_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    monkeypatch.setattr(agents, "_places", lambda preset: [tmp_path / preset])
    (tmp_path / "host").touch()
    (tmp_path / "android-static").touch()
    with pytest.raises(DeviceError, match="no melt-agent for android-riscv64"):
        agents.agent_files(Platform("android", "riscv64"))
    assert [file.preset for file in agents.agent_files(Platform("android", "aarch64"))] == ["android-static"]
    monkeypatch.setenv("ANDROID_ROOT", "/system")
    assert [file.preset for file in agents.agent_files(Platform("android", "aarch64"))] == ["android-static", "host"]


def test_an_agent_of_another_build_is_replaced(
    state: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = LocalTransport(tmp_path / "work")
    with Device(transport) as device:
        device.agent()
        before = {entry.path.name for entry in transport.list(RemotePath.of("agents"))}
    # WHEN this host has another build of it, THEN that one is sent and used
    (name,) = before
    other = tmp_path / "other-agent"
    other.write_bytes((tmp_path / "work/agents" / name).read_bytes() + b"another build")
    other.chmod(0o755)
    monkeypatch.setenv("MELT_AGENT", str(other))
    with Device(transport) as device:
        device.agent()
        after = {entry.path.name for entry in transport.list(RemotePath.of("agents"))}
    assert len(after - before) == 1
