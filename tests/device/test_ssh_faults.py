"""What can go wrong on the way to an ssh host, each with nothing lost and a message that says what to do."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.cut_proxy import CutProxy
from fakes.ssh_server import SshServer
from melt_core.errors import DeviceError, InvalidArgumentError, MissingExtraError, TransientDeviceError
from melt_core.transports import RemotePath, SshAddress, SshTransport

CONTENT = bytes(range(256)) * 50_000  # 12.8 MB


@pytest.fixture
def network(ssh_server: SshServer) -> Iterator[CutProxy]:
    proxy = CutProxy(ssh_server.port)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def far(network: CutProxy, ssh_server: SshServer, tmp_path: Path) -> Iterator[SshTransport]:
    """The server, over a network that can be cut."""
    key = (ssh_server.folder / "host_key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{network.port} {key}")
    with SshTransport(
        f"someone@127.0.0.1:{network.port}",
        work_dir=str(tmp_path / "device"),
        key_file=ssh_server.folder / "id",
        known_hosts=tmp_path / "known_hosts",
        connect_timeout_s=1.5,
    ) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    return path


def transport_to(server: SshServer, **changes: object) -> SshTransport:
    options: dict[str, object] = {
        "key_file": server.folder / "id",
        "known_hosts": server.folder / "known_hosts",
        "connect_timeout_s": 5,
        **changes,
    }
    return SshTransport(f"someone@127.0.0.1:{server.port}", **options)  # type: ignore[arg-type]


def test_network_cut_during_push(network: CutProxy, far: SshTransport, source: Path) -> None:
    far.work_dir  # noqa: B018  (connected before the fault)
    network.cut_after_up = 6_000_000
    with pytest.raises(TransientDeviceError, match=r"broke.*check the network"):
        far.push(source, RemotePath.of("x"))
    # WHEN it is called again, THEN it connects again, and only the rest travels
    pushed = far.push(source, RemotePath.of("x"))
    assert pushed.resumed_from_bytes > 1_000_000  # less what was in the server's own buffers
    assert Path(far.resolve(RemotePath.of("x"))).read_bytes() == CONTENT


def test_network_cut_during_pull(network: CutProxy, far: SshTransport, source: Path, tmp_path: Path) -> None:
    far.push(source, RemotePath.of("x"))
    network.cut_after_down = 6_000_000
    with pytest.raises(TransientDeviceError, match="broke"):
        far.pull(RemotePath.of("x"), tmp_path / "back")
    pulled = far.pull(RemotePath.of("x"), tmp_path / "back")
    assert pulled.resumed_from_bytes > 4_000_000
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_network_cut_during_run(network: CutProxy, far: SshTransport) -> None:
    timer = threading.Timer(0.4, network.cut)
    far.work_dir  # noqa: B018  (connected before the fault)
    timer.start()
    with pytest.raises(TransientDeviceError, match="broke"):
        far.run(["sleep", "30"])
    timer.join()
    assert far.run(["echo", "back"]).stdout == b"back\n"


def test_network_that_swallows_everything(network: CutProxy, far: SshTransport, source: Path) -> None:
    far.work_dir  # noqa: B018  (connected before the fault)
    network.cut_after_up = None

    def swallow(done: int, size: int) -> None:
        network.blocked = True

    start = time.monotonic()
    with pytest.raises(TransientDeviceError, match="nothing moved for 1 s"):
        far.push(source, RemotePath.of("x"), stall_s=1, on_progress=swallow)
    network.blocked = False
    assert time.monotonic() - start < 15


def test_wrong_host_key(ssh_server: SshServer, tmp_path: Path) -> None:
    other = (ssh_server.folder / "other_id.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{ssh_server.port} {other}")
    with (
        transport_to(ssh_server, known_hosts=tmp_path / "known_hosts") as transport,
        pytest.raises(DeviceError, match="host key is not the known one") as caught,
    ):
        transport.run(["true"])
    assert not isinstance(caught.value, TransientDeviceError)


def test_unknown_host_key(ssh_server: SshServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "known_hosts").write_text("")
    options = {"known_hosts": tmp_path / "known_hosts"}
    with transport_to(ssh_server, **options) as transport, pytest.raises(DeviceError, match="host key"):
        transport.run(["true"])
    # WHEN the check is switched off, THEN it works and leaves a warning
    with caplog.at_level(logging.WARNING), transport_to(ssh_server, check_host_key=False) as transport:
        assert transport.run(["echo", "x"]).stdout == b"x\n"
    assert "not checked" in caplog.text


def test_key_that_is_not_accepted(ssh_server: SshServer) -> None:
    with (
        transport_to(ssh_server, key_file=ssh_server.folder / "other_id") as transport,
        pytest.raises(DeviceError, match="no key is accepted") as caught,
    ):
        transport.run(["true"])
    assert not isinstance(caught.value, TransientDeviceError)


def test_key_that_cannot_be_read(ssh_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "no_key").write_text("this is no key")
    with transport_to(ssh_server, key_file=tmp_path / "no_key") as transport, pytest.raises(DeviceError, match="key"):
        transport.run(["true"])
    with (
        transport_to(ssh_server, key_file=tmp_path / "nothing") as transport,
        pytest.raises(DeviceError, match="No such"),
    ):
        transport.run(["true"])


def test_nobody_answers(network: CutProxy, far: SshTransport) -> None:
    network.blocked = True
    with pytest.raises(TransientDeviceError, match="cannot log in to"):
        far.run(["true"])
    network.blocked = False
    assert far.run(["echo", "x"]).stdout == b"x\n"


def test_nobody_listens(ssh_server: SshServer) -> None:
    address = SshAddress("127.0.0.1", "someone", 1)
    options = {"key_file": ssh_server.folder / "id", "known_hosts": ssh_server.folder / "known_hosts"}
    with (
        SshTransport(address, **options) as transport,
        pytest.raises(TransientDeviceError, match="check that it is on"),
    ):
        transport.run(["true"])


def test_an_unknown_name(ssh_server: SshServer) -> None:
    with (
        SshTransport("no-such-host.invalid", known_hosts=ssh_server.folder / "known_hosts") as transport,
        pytest.raises(TransientDeviceError, match="no-such-host"),
    ):
        transport.run(["true"])


def test_disk_full(ssh: SshTransport, source: Path) -> None:
    digest = ssh.push(source, RemotePath.of("seen")).sha256
    part = ssh.resolve(RemotePath.of(f"x.{digest[:16]}.part"))
    Path(part).symlink_to("/dev/full")
    with pytest.raises(DeviceError, match=r"storage of ssh:.* is full"):
        ssh.push(source, RemotePath.of("x"))
    assert not Path(part).is_symlink()


def test_chatty_login_shell(ssh_server: SshServer, ssh: SshTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a server whose shell greets before each command, as start files do
    greeting = f"printf '%s' {'welcome ' * 100!r}; "
    monkeypatch.setattr(ssh_server, "before_each", greeting)
    assert ssh.run(["echo", "x"]).stdout == b"x\n"
    # WHEN the greeting has no end, THEN that is said
    monkeypatch.setattr(ssh_server, "before_each", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done; ")
    with pytest.raises(DeviceError, match="check its start files"):
        ssh.run(["echo", "x"])
    ssh_server.kill_programs()  # its pipe is read on, so that no SIGPIPE ends it


def test_shared_by_threads(ssh: SshTransport) -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda n=n: results.append(ssh.run(["echo", str(n)]).stdout)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(int(result) for result in results) == list(range(8))


def test_close_leaves_no_thread(ssh_server: SshServer) -> None:
    before = set(threading.enumerate())
    transport = transport_to(ssh_server)
    transport.run(["true"])
    (made,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "melt-ssh")
    transport.close()
    assert not made.is_alive()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("jetson-1", SshAddress("jetson-1")),
        ("me@jetson:2222", SshAddress("jetson", "me", 2222)),
        ("[fe80::1%eth0]:22", SshAddress("fe80::1%eth0", None, 22)),
        ("DOMAIN\\me@10.0.0.2", SshAddress("10.0.0.2", "DOMAIN\\me")),
    ],
)
def test_addresses(text: str, address: SshAddress) -> None:
    assert SshAddress.of(text) == address
    assert SshAddress.of(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "@", "-oProxyCommand=x", "me@-x", "a b", "a;b/c", "a:b", "a:0", "a:70000", "-x@host", "a\nb", "fe80::1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        SshAddress.of(text)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        SshAddress.of("me:secret@host")
    assert "secret" not in str(caught.value)


def test_without_the_extra(ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with transport_to(ssh_server) as transport, pytest.raises(MissingExtraError, match=r"melt_core\[ssh\]"):
        transport.run(["true"])
