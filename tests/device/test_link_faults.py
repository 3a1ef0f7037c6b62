"""The way to the device breaks while a run is measured: nothing is lost, and the message says what to do."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.adb_phone import AdbServerProcess, Phone
from fakes.ssh_server import SshServer
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.errors import TransientDeviceError
from melt_core.transports import AdbTransport, SshTransport

from .long_runs import LONG, MEASUREMENT, Once, check_whole


def test_cable_pulled_during_the_run(
    phone: Phone, adb: AdbTransport, state: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    def pull() -> None:
        phone.plug_out()
        time.sleep(1.0)
        phone.attach()

    act = Once(pull)
    with Device(adb) as device:
        outcome = device.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    check_whole(outcome.trace)


def test_cable_pulled_for_good_and_plugged_in_later(
    phone: Phone, adb: AdbTransport, state: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    act = Once(phone.plug_out)
    impatient = Measurement(LONG, limits=GateLimits(wait_s=0), patience=Patience(attempts=3, total_s=2.0))
    with Device(adb) as device, pytest.raises(TransientDeviceError, match="melt devices resume"):
        device.measure(str(tiny_llama), impatient, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    (entry,) = Journal().entries()
    # WHEN it is plugged in again, THEN the same request takes up the run that goes on there
    phone.attach()
    events: list[str] = []
    with Device(adb) as device:
        outcome = device.measure(
            str(tiny_llama),
            MEASUREMENT,
            output=str(tmp_path / "y.melt"),
            on_event=lambda event: events.append(event["event"]),
        )
    assert "resume" in events
    check_whole(outcome.trace)
    assert not (tmp_path / "x.melt").exists()
    assert entry.run not in {path.name for path in (Path(adb.work_dir) / "runs").iterdir()}


def test_cable_pulled_during_the_pull(
    phone: Phone, adb: AdbTransport, state: Path, tiny_llama: Path, tmp_path: Path
) -> None:
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
        trace = device.measure(
            str(tiny_llama), replace(MEASUREMENT, request=request), output=str(tmp_path / "x.melt")
        ).trace
    assert dropped
    assert trace.complete
    assert not trace.damage


def test_cable_pulled_while_the_model_is_sent(
    phone: Phone, adb: AdbTransport, state: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    with Device(adb) as device:
        device.agent()  # so that what breaks is the model's way
        phone.faults.drop_after_received = 300_000

        def plug_in() -> None:
            time.sleep(0.5)
            phone.attach()

        again = threading.Thread(target=plug_in)
        again.start()
        device.bring(str(tiny_llama))
        again.join()
    (there,) = (Path(adb.work_dir) / "models").iterdir()
    assert there.read_bytes() == tiny_llama.read_bytes()


def test_adb_server_killed_during_the_run(tmp_path: Path, state: Path, tiny_llama: Path) -> None:
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
            outcome = device.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
        act.join()
        check_whole(outcome.trace)
    finally:
        phone.detach()
        server.stop()


def test_network_lost_during_the_run(
    ssh_server: SshServer, ssh: SshTransport, state: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    act = Once(ssh_server.drop_connections)
    with Device(ssh) as device:
        outcome = device.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act)
    act.join()
    check_whole(outcome.trace)
