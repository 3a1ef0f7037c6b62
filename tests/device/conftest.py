"""The devices that the tests of transports run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.adb_phone import AdbServerProcess, Phone
from fakes.ssh_server import SshServer
from melt_core.devices import Device
from melt_core.transports import AdbTransport, LocalTransport, SshTransport, Transport


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServerProcess]:
    """A stock adb server on a port of its own."""
    server = AdbServerProcess(tmp_path_factory.mktemp("adb"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def phone(adb_server: AdbServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """A phone on the cable, whose shell is this host's."""
    made = Phone(tmp_path_factory.mktemp("phone"), adb_server)
    made.start()
    made.attach()
    yield made
    made.detach()


@pytest.fixture
def adb(phone: Phone) -> AdbTransport:
    """The transport to that phone."""
    return AdbTransport(phone.serial, work_dir=str(phone.root / "data/local/tmp/melt"), server=phone.server.address)


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An ssh server whose commands run in this host's shell."""
    server = SshServer(tmp_path_factory.mktemp("ssh"), tmp_path_factory.mktemp("home"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ssh(ssh_server: SshServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshTransport]:
    """The transport to that server."""
    with SshTransport(
        f"someone@127.0.0.1:{ssh_server.port}",
        work_dir=str(tmp_path_factory.mktemp("device")),
        key_file=ssh_server.folder / "id",
        known_hosts=ssh_server.folder / "known_hosts",
    ) as made:
        yield made


@pytest.fixture(params=["local", "adb", "ssh"])
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    """Each kind of transport in turn, with an empty work directory."""
    if request.param == "local":
        with LocalTransport(tmp_path_factory.mktemp("device")) as made:
            yield made
    else:
        yield request.getfixturevalue(request.param)


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This host's memory of devices, empty."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("MELT_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def device(transport: Transport, state: Path) -> Iterator[Device]:
    """A device on each kind of transport in turn, never used before."""
    with Device(transport) as made:
        yield made
