"""The devices that the tests of transports run against."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.adb_phone import AdbServerProcess, Phone
from fakes.arm64 import Board, copy_root, phone_shell, what_is_missing
from fakes.needs import lacking
from fakes.ssh_server import SshServer
from melt_core.devices import Device
from melt_core.devices.agents import agent_files
from melt_core.errors import DeviceError
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


def need_arm64(*, ssh_server: bool = False) -> None:
    """Skips with the reason where arm64 roots cannot be run; in CI, fails."""
    if (problem := what_is_missing(ssh_server=ssh_server)) is not None:
        lacking(problem)


@pytest.fixture(scope="session")
def arm64_phone_on_cable(adb_server: AdbServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """A phone whose shell and programs are arm64."""
    need_arm64()
    root = copy_root("phone", tmp_path_factory.mktemp("arm64"))
    made = Phone(root, adb_server, shell=phone_shell(root))
    made.start()
    made.attach()
    yield made
    made.detach()


@pytest.fixture
def arm64_phone(arm64_phone_on_cable: Phone) -> Iterator[AdbTransport]:
    """The transport to the arm64 phone, with an empty work directory."""
    made = AdbTransport(arm64_phone_on_cable.serial, server=arm64_phone_on_cable.server.address)
    yield made
    shutil.rmtree(arm64_phone_on_cable.root / "data/local/tmp/melt", ignore_errors=True)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A real ssh server in front of an arm64 board."""
    need_arm64(ssh_server=True)
    folder = tmp_path_factory.mktemp("board")
    made = Board(folder, copy_root("board", folder))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def arm64_board(board: Board) -> Iterator[SshTransport]:
    """The transport to the arm64 board, with an empty work directory."""
    with SshTransport(
        f"root@127.0.0.1:{board.port}", key_file=board.folder / "id", known_hosts=board.folder / "known_hosts"
    ) as made:
        yield made
    shutil.rmtree(board.root / "root/.cache", ignore_errors=True)


@pytest.fixture(params=["local", "adb", "ssh", "arm64_phone", "arm64_board"])
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
        try:
            agent_files(made.info().platform)
        except DeviceError as error:
            lacking(str(error))
        yield made


@pytest.fixture
def local(state: Path, tmp_path: Path) -> Iterator[Device]:
    """This host as a device, never used before; its work directory is ``tmp_path / "work"``."""
    with Device(LocalTransport(tmp_path / "work")) as made:
        yield made
