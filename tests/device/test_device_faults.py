"""What goes wrong while a run is measured on a device: nothing is lost, and the message says what to do."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.adb_phone import AdbServerProcess, Phone
from fakes.ssh_server import SshServer
from fakes.tiny_models import vocabulary_folder, write_model
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.errors import DeviceError, InvalidArgumentError, MeltError, StorageError, TransientDeviceError
from melt_core.trace import Trace
from melt_core.transports import AdbTransport, LocalTransport, RemotePath, SshTransport

LONG = {
    "prompt_tokens": 8, "max_tokens": 400, "repeats": 12, "warmup": 0, "n_ctx": 512, "n_threads": 1,
    "overhead_budget_s": 0.0, "levels": ["tokens"],
}  # fmt: skip
MEASUREMENT = Measurement(LONG, limits=GateLimits(wait_s=0), telemetry_s=0.2, patience=Patience(30, 40.0))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if vocabulary_folder() is None:
        pytest.skip("no prepared llama.cpp source tree with models/ggml-vocab-*.gguf: run `make setup`")
    return write_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def local(state: Path, tmp_path: Path) -> Device:
    return Device(LocalTransport(tmp_path / "work"))


class Once:
    """Does something in another thread as soon as the run is under way."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self._thread: threading.Thread | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and self._thread is None:
            self._thread = threading.Thread(target=self._act)
            self._thread.start()

    def join(self) -> None:
        assert self._thread is not None, "the run was over before anything could go wrong"
        self._thread.join(60)


def check_whole(trace: Trace, n_runs: int = 12) -> None:
    assert trace.complete
    assert not trace.damage
    assert len(trace.runs) == n_runs
    assert "clock_alignment" in trace.metadata
    assert not Journal().entries()


def run_process(work: Path, run: str) -> int:
    """Returns the process id that the status of a run names."""
    import json

    pid: int = json.loads((work / "runs" / run / "status.json").read_text())["pid"]
    return pid


# The way to the device


def test_cable_pulled_during_the_run(phone: Phone, adb: AdbTransport, state: Path, tiny: Path, tmp_path: Path) -> None:
    def pull() -> None:
        phone.plug_out()
        time.sleep(1.0)
        phone.attach()

    act = Once(pull)
    with Device(adb) as device:
        outcome = device.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    check_whole(outcome.trace)


def test_cable_pulled_for_good_and_plugged_in_later(
    phone: Phone, adb: AdbTransport, state: Path, tiny: Path, tmp_path: Path
) -> None:
    act = Once(phone.plug_out)
    impatient = Measurement(LONG, limits=GateLimits(wait_s=0), patience=Patience(attempts=3, total_s=2.0))
    with Device(adb) as device, pytest.raises(TransientDeviceError, match="melt devices resume"):
        device.measure(str(tiny), impatient, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    (entry,) = Journal().entries()
    # WHEN it is plugged in again, THEN the same request takes up the run that goes on there
    phone.attach()
    events: list[str] = []
    with Device(adb) as device:
        outcome = device.measure(
            str(tiny),
            MEASUREMENT,
            output=str(tmp_path / "y.melt"),
            on_event=lambda event: events.append(event["event"]),
        )
    assert "resume" in events
    check_whole(outcome.trace)
    assert not (tmp_path / "x.melt").exists()
    assert entry.run not in {path.name for path in (Path(adb.work_dir) / "runs").iterdir()}


def test_cable_pulled_during_the_pull(phone: Phone, adb: AdbTransport, state: Path, tiny: Path, tmp_path: Path) -> None:
    request = {**LONG, "levels": ["tokens", "ops"], "repeats": 3}
    dropped = []

    class Dropping(AdbTransport):
        def pull(self, *args: Any, **options: Any) -> Any:
            if not dropped:
                dropped.append(1)
                phone.faults.drop_after_sent = 100_000
            try:
                return super().pull(*args, **options)
            finally:
                if phone.faults.drop_after_sent is None:  # the cable is out
                    phone.attach()

    transport = Dropping(phone.serial, work_dir=adb.work_dir, server=phone.server.address)
    with Device(transport) as device:
        trace = device.measure(str(tiny), replace(MEASUREMENT, request=request), output=str(tmp_path / "x.melt")).trace
    assert dropped
    assert trace.complete
    assert not trace.damage


def test_cable_pulled_while_the_model_is_sent(
    phone: Phone, adb: AdbTransport, state: Path, tiny: Path, tmp_path: Path
) -> None:
    with Device(adb) as device:
        device.agent()  # so that what breaks is the model's way
        phone.faults.drop_after_received = 300_000

        def plug_in() -> None:
            time.sleep(0.5)
            phone.attach()

        again = threading.Thread(target=plug_in)
        again.start()
        device.bring(str(tiny))
        again.join()
    (there,) = (Path(adb.work_dir) / "models").iterdir()
    assert there.read_bytes() == tiny.read_bytes()


def test_adb_server_killed_during_the_run(tmp_path: Path, state: Path, tiny: Path) -> None:
    home = tmp_path / "adb"
    home.mkdir()
    server = AdbServerProcess(home)
    server.start()
    phone = Phone(tmp_path / "phone", server)
    (tmp_path / "phone").mkdir(exist_ok=True)
    phone.start()
    phone.attach()

    def kill() -> None:
        server.stop()
        server.start()
        phone.attach()

    act = Once(kill)
    transport = AdbTransport(phone.serial, work_dir=str(tmp_path / "work"), server=server.address)
    try:
        with Device(transport) as device:
            outcome = device.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
        act.join()
        check_whole(outcome.trace)
    finally:
        phone.detach()
        server.stop()


def test_network_lost_during_the_run(
    ssh_server: SshServer, ssh: SshTransport, state: Path, tiny: Path, tmp_path: Path
) -> None:
    act = Once(ssh_server.drop_connections)
    with Device(ssh) as device:
        outcome = device.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    check_whole(outcome.trace)


# The host


def test_host_killed_during_the_run_and_started_again(state: Path, tiny: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from melt_core.devices import Device, GateLimits, Measurement
        from melt_core.transports import LocalTransport
        import json
        work, model, output, request = sys.argv[1:]
        measurement = Measurement(json.loads(request), limits=GateLimits(wait_s=0), telemetry_s=0.2)
        with Device(LocalTransport(Path(work))) as device:
            device.measure(model, measurement, output=output, on_event=lambda event: print(event["event"], flush=True))
    """)
    import json

    arguments = [str(tmp_path / "work"), str(tiny), str(tmp_path / "x.melt"), json.dumps({**LONG, "repeats": 60})]
    host = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    while "repetition" not in host.stdout.readline():
        assert host.poll() is None
    time.sleep(1.0)  # so that it has seen something
    host.kill()
    host.wait(10)
    host.stdout.close()
    (entry,) = Journal().entries()
    seen = [line for line in Journal().notes(entry.run) if "readings" in line]
    assert seen
    # WHEN it is started again, THEN it takes up the run, and what it had seen before is in the trace
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[0].startswith(("push", "resume"))
    assert "resume" in done.stdout
    trace = Trace.open(tmp_path / "x.melt")
    check_whole(trace, 60)
    assert trace.metadata["telemetry"]["n_readouts"] >= len(seen)
    assert len(list((tmp_path / "work/runs").iterdir())) == 0


def test_two_processes_do_not_follow_one_run(local: Device, tiny: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second() -> None:
        (entry,) = Journal().entries()
        with Device(LocalTransport(tmp_path / "work")) as other, pytest.raises(InvalidArgumentError) as caught:
            other.resume(entry.run)
        refused.append(str(caught.value))

    act = Once(second)
    check_whole(local.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act).trace)
    act.join()
    assert "followed by another process" in refused[0]
    local.close()


def test_an_output_that_cannot_be_written_loses_nothing(local: Device, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    act = Once(folder.rmdir)
    with pytest.raises(StorageError, match="melt devices resume"):
        local.measure(str(tiny), MEASUREMENT, output=str(folder / "x.melt"), on_event=act)
    act.join()
    (entry,) = Journal().entries()
    folder.mkdir()
    check_whole(local.resume(entry.run).trace)
    assert (folder / "x.melt").exists()
    local.close()


def test_ctrl_c_ends_the_run_there_and_keeps_its_trace(local: Device, tiny: Path, tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] >= 1:
            raise KeyboardInterrupt

    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(KeyboardInterrupt):
        local.measure(str(tiny), endless, output=str(tmp_path / "x.melt"), on_event=_once(interrupt))
    trace = Trace.open(tmp_path / "x.melt")
    assert trace.complete
    assert 1 <= len(trace.runs) < 500
    assert not Journal().entries()
    local.close()


def _once(act: Any) -> Any:
    done: list[int] = []

    def call(event: dict[str, Any]) -> None:
        if not done:
            try:
                act(event)
            except KeyboardInterrupt:
                done.append(1)
                raise

    return call


# The device


def test_run_killed_for_its_memory(local: Device, tiny: Path, tmp_path: Path) -> None:
    def kill() -> None:
        (entry,) = Journal().entries()
        time.sleep(1.0)
        os.kill(run_process(tmp_path / "work", entry.run), signal.SIGKILL)

    act = Once(kill)
    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(MeltError, match="memory") as caught:
        local.measure(str(tiny), endless, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert "x.melt" in str(caught.value)
    assert len(Trace.open(tmp_path / "x.melt").runs) >= 1  # what was measured until then
    assert not Journal().entries()
    local.close()


def test_agent_killed_while_it_serves(local: Device, tiny: Path, tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(local.hello().integer("pid"), signal.SIGKILL)

    act = Once(kill)
    check_whole(local.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act).trace)
    act.join()
    local.close()


def test_device_restarted_during_the_run(local: Device, tiny: Path, tmp_path: Path) -> None:
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
        status.write_text(status.read_text().replace(boot, "00000000-0000-0000-0000-000000000000"))

    act = Once(restart)
    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(MeltError, match="restarted"):
        local.measure(str(tiny), endless, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert len(Trace.open(tmp_path / "x.melt").runs) >= 1
    local.close()


def test_work_directory_removed_during_the_run(local: Device, tiny: Path, tmp_path: Path) -> None:
    import shutil

    def remove() -> None:
        (entry,) = Journal().entries()
        pid = run_process(tmp_path / "work", entry.run)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        shutil.rmtree(tmp_path / "work/runs" / entry.run, ignore_errors=True)

    act = Once(remove)
    with pytest.raises(MeltError, match=r"work directory was removed|lost|signal"):
        local.measure(str(tiny), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    assert not Journal().entries()
    local.close()


def test_disk_full(phone: Phone, adb: AdbTransport, state: Path, tiny: Path) -> None:
    with Device(adb) as device:
        device.agent()
        from melt_core.devices.state_dir import sha256_of

        digest = sha256_of(tiny)
        models = Path(adb.work_dir) / "models"
        models.mkdir(exist_ok=True)
        part = models / f"{digest[:16]}-tiny.gguf.{digest[:16]}.part"
        part.symlink_to("/dev/full")
        with pytest.raises(DeviceError, match=r"is full.*melt devices clean") as caught:
            device.bring(str(tiny))
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


def test_an_agent_of_another_build_is_replaced(
    state: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
