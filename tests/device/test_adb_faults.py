"""What can go wrong on the way to a phone, each with nothing lost and a message that says what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.adb_phone import AdbServerProcess, Phone
from melt_core.errors import DeviceError, InvalidArgumentError, TransientDeviceError
from melt_core.transports import AdbServer, AdbTransport, RemotePath, list_adb_devices

CONTENT = bytes(range(256)) * 50_000  # 12.8 MB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    return path


def test_cable_pulled_during_push(phone: Phone, adb: AdbTransport, source: Path) -> None:
    # GIVEN a cable that is pulled when half of the file is over
    adb.work_dir  # noqa: B018  (made before the fault)
    phone.faults.drop_after_received = 6_000_000
    # WHEN it is pushed, THEN the error says that it may come back
    with pytest.raises(TransientDeviceError, match=r"broke.*check the cable"):
        adb.push(source, RemotePath.of("x"))
    with pytest.raises(TransientDeviceError, match="adb says"):
        adb.run(["true"])
    # WHEN the cable is back, THEN only the rest travels
    phone.attach()
    pushed = adb.push(source, RemotePath.of("x"))
    assert pushed.resumed_from_bytes > 4_000_000
    assert pushed.moved_bytes == len(CONTENT) - pushed.resumed_from_bytes
    assert Path(adb.resolve(RemotePath.of("x"))).read_bytes() == CONTENT


def test_cable_pulled_during_pull(phone: Phone, adb: AdbTransport, source: Path, tmp_path: Path) -> None:
    adb.push(source, RemotePath.of("x"))
    phone.faults.drop_after_sent = 6_000_000
    with pytest.raises(TransientDeviceError, match="broke"):
        adb.pull(RemotePath.of("x"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    phone.attach()
    pulled = adb.pull(RemotePath.of("x"), tmp_path / "back")
    assert pulled.resumed_from_bytes > 4_000_000
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_cable_pulled_during_run(phone: Phone, adb: AdbTransport) -> None:
    # GIVEN a program that was detached as the agent detaches its runs, and one that was not
    done = adb.resolve(RemotePath.of("done"))
    adb.run(["sh", "-c", '(trap "" HUP; sleep 1; echo result > "$1") >/dev/null 2>&1 </dev/null &', "sh", done])
    timer = threading.Timer(0.3, phone.plug_out)
    timer.start()
    with pytest.raises(TransientDeviceError, match="broke"):
        adb.run(["sleep", "30"])
    timer.join()
    # WHEN the cable is back, THEN the result is there
    phone.attach()
    end = time.monotonic() + 10
    while (result := adb.run(["cat", done])).exit_code != 0 and time.monotonic() < end:
        time.sleep(0.1)
    assert result.stdout == b"result\n"


def test_cable_pulled_from_an_open_channel(phone: Phone, adb: AdbTransport) -> None:
    with adb.open_channel(["cat"]) as channel:
        channel.send(b"x")
        assert channel.receive() == b"x"
        phone.plug_out()
        with pytest.raises(TransientDeviceError, match="broke"):
            channel.receive()


def test_reboot(phone: Phone, adb: AdbTransport, source: Path) -> None:
    adb.push(source, RemotePath.of("x"))
    timer = threading.Timer(0.3, phone.reboot)
    timer.start()
    with pytest.raises(TransientDeviceError, match="check the cable, or whether the device restarted"):
        adb.run(["sleep", "30"])
    timer.join()
    phone.attach()
    assert [str(entry.path) for entry in adb.list(RemotePath())] == ["x"]


def test_adb_server_killed(tmp_path: Path, source: Path) -> None:
    # GIVEN a server of its own, and a program that runs when the server is killed
    server = AdbServerProcess(tmp_path)
    server.start()
    phone = Phone(tmp_path / "phone", server)
    phone.root.mkdir()
    phone.start()
    try:
        phone.attach()
        adb = AdbTransport(phone.serial, work_dir=str(phone.root / "melt"), server=server.address)
        timer = threading.Timer(0.3, server.stop)
        timer.start()
        # A server that is going down still answers for a moment, and by then knows of no device.
        with pytest.raises(TransientDeviceError, match=r"ended; the next call starts it again|is not listed"):
            adb.run(["sleep", "30"])
        timer.join()
        # WHEN the next call finds no server, THEN it starts one on the same port; the phone is on a network and not
        # on a cable, so it is to be connected again by hand
        with pytest.raises(TransientDeviceError, match="not found"):
            adb.run(["true"])
        phone.attach()
        assert adb.push(source, RemotePath.of("x")).moved_bytes == len(CONTENT)
    finally:
        phone.detach()
        server.stop()


@pytest.mark.parametrize("state", ["offline", "unauthorized"])
def test_not_ready(phone: Phone, adb: AdbTransport, state: str) -> None:
    phone.plug_out()
    phone.faults.state = state  # type: ignore[assignment]
    phone.attach(state=state)
    with pytest.raises(DeviceError) as caught:
        adb.run(["true"])
    # Who must act is the difference: the person with the phone in hand, or time.
    assert isinstance(caught.value, TransientDeviceError) == (state == "offline")
    assert ("allow USB debugging" in str(caught.value)) == (state == "unauthorized")
    assert [device.state for device in list_adb_devices(phone.server.address)] == [state]


def test_absent(phone: Phone) -> None:
    with pytest.raises(TransientDeviceError, match=r"not found.*check the cable"):
        AdbTransport("R58N12ABCDE", server=phone.server.address).run(["true"])


def test_disk_full(adb: AdbTransport, source: Path) -> None:
    # GIVEN a device that has no room: the part file leads to one that is always full
    digest = adb.push(source, RemotePath.of("seen")).sha256
    part = adb.resolve(RemotePath.of(f"x.{digest[:16]}.part"))
    Path(part).symlink_to("/dev/full")
    with pytest.raises(DeviceError, match=r"storage of adb:.* is full.*melt devices clean") as caught:
        adb.push(source, RemotePath.of("x"))
    assert not isinstance(caught.value, TransientDeviceError)
    assert not Path(part).is_symlink()


def test_slow_device_times_out(phone: Phone, adb: AdbTransport, source: Path) -> None:
    # GIVEN a device that becomes slow when half of the file is over
    adb.work_dir  # noqa: B018  (made before the fault)

    def slow_down(done: int, size: int) -> None:
        phone.faults.delay_s = 0.4 if done > size // 2 else 0.0

    with pytest.raises(TransientDeviceError, match=r"timed out after 1 s.*overloaded"):
        adb.push(source, RemotePath.of("x"), timeout_s=1, on_progress=slow_down)
    # WHEN it is given the time, THEN only the rest travels
    phone.faults.delay_s = 0.0
    assert adb.push(source, RemotePath.of("x")).resumed_from_bytes > len(CONTENT) // 4


def test_stalled_device(phone: Phone, adb: AdbTransport, source: Path) -> None:
    # GIVEN a device that answers first and then no more
    adb.work_dir  # noqa: B018  (made before the fault)

    def stall(done: int, size: int) -> None:
        phone.faults.delay_s = 60.0

    with pytest.raises(TransientDeviceError, match="nothing moved for 1 s"):
        adb.push(source, RemotePath.of("x"), stall_s=1, on_progress=stall)


def test_device_that_answers_nothing(phone: Phone, adb: AdbTransport) -> None:
    phone.faults.delay_s = 60.0
    slow = AdbTransport(adb.uri.removeprefix("adb:"), server=phone.server.address, connect_timeout_s=0.5)
    with pytest.raises(TransientDeviceError, match="does not answer"):
        slow.run(["true"])


def test_shared_by_threads(adb: AdbTransport) -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda n=n: results.append(adb.run(["echo", str(n)]).stdout)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(int(result) for result in results) == list(range(12))


HOSTILE_LISTINGS = {
    "climbs": b"81a4 5 0 {dir}/./../../../etc/passwd{mark}\n",
    "absolute": b"81a4 5 0 /etc/passwd{mark}\n",
    "a folder further down": b"81a4 5 0 {dir}/./a/b{mark}\n",
    "no number": b"81a4 five 0 {dir}/./x{mark}\n",
    "too long a number": b"81a4 " + b"9" * 400 + b" 0 {dir}/./x{mark}\n",
    "a zero byte": b"81a4 5 0 {dir}/./x\0y{mark}\n",
    "cut short": b"81a4 5 0 {dir}/./x",
    "dots": b"81a4 5 0 {dir}/./..{mark}\n",
    "nothing": b"81a4 5 0 {dir}/./{mark}\n",
    "too long a name": b"81a4 5 0 {dir}/./" + b"x" * 300 + b"{mark}\n",
}


@pytest.mark.parametrize("listing", HOSTILE_LISTINGS.values(), ids=HOSTILE_LISTINGS)
def test_hostile_listing(phone: Phone, adb: AdbTransport, listing: bytes) -> None:
    work_dir = adb.work_dir

    def lie(command: str) -> Iterator[bytes] | None:
        if "find" not in command:
            return None
        mark = command.rsplit(" ", 1)[1].strip("'")
        return iter([listing.replace(b"{dir}", work_dir.encode()).replace(b"{mark}", mark.encode())])

    phone.faults.hijack = lie
    with pytest.raises(DeviceError) as caught:
        adb.list(RemotePath())
    assert not isinstance(caught.value, TransientDeviceError)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def test_endless_listing(phone: Phone, adb: AdbTransport) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)
    phone.faults.hijack = lambda command: endless(b"81a4 5 0 x" * 6000) if "find" in command else None
    with pytest.raises(DeviceError, match="wrote more than"):
        adb.list(RemotePath())


@pytest.mark.parametrize("reply", [b"whole 99999999999999999999999\n", b"whole -1\n", b"whole x\n", b"../../x\n"])
def test_hostile_size(phone: Phone, adb: AdbTransport, tmp_path: Path, reply: bytes) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)
    phone.faults.hijack = lambda command: iter([reply])
    with pytest.raises(DeviceError, match="answered"):
        adb.pull(RemotePath.of("x"), tmp_path / "y")
    assert not list(tmp_path.glob("y*"))


def test_file_that_is_longer_than_it_said(phone: Phone, adb: AdbTransport, tmp_path: Path) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)

    def lie(command: str) -> Iterator[bytes]:
        return endless(bytes(1 << 16)) if "tail" in command else iter([b"whole 100000\nhash " + b"a" * 64 + b"\n"])

    phone.faults.hijack = lie
    with pytest.raises(DeviceError, match="longer than the 100000 bytes it said"):
        adb.pull(RemotePath.of("x"), tmp_path / "y")
    assert sum(path.stat().st_size for path in tmp_path.glob("y*")) <= 100_000


def test_more_than_the_host_has_room_for(phone: Phone, adb: AdbTransport, tmp_path: Path) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)
    phone.faults.hijack = lambda command: iter([b"whole 999999999999999999\nhash " + b"a" * 64 + b"\n"])
    with pytest.raises(DeviceError, match="more than the"):
        adb.pull(RemotePath.of("x"), tmp_path / "y")
    with pytest.raises(OSError, match="bytes free"):
        adb.pull(RemotePath.of("x"), tmp_path / "y", max_bytes=1 << 62)


def test_wrong_content(phone: Phone, adb: AdbTransport, tmp_path: Path) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)

    def lie(command: str) -> Iterator[bytes]:
        return iter([b"x" * 5] if "tail" in command else [b"whole 5\nhash " + b"a" * 64 + b"\n"])

    phone.faults.hijack = lie
    with pytest.raises(TransientDeviceError, match="arrived damaged"):
        adb.pull(RemotePath.of("x"), tmp_path / "y")
    assert not list(tmp_path.glob("y*"))


def test_hash_that_is_a_path(phone: Phone, adb: AdbTransport, tmp_path: Path) -> None:
    adb.work_dir  # noqa: B018  (made before the fault)
    trick = b"../" * 21 + b"a"  # 64 characters, like a hash; it would name the part file
    phone.faults.hijack = lambda command: iter([b"x" * 5] if "tail" in command else [b"whole 5\nhash " + trick + b"\n"])
    with pytest.raises(DeviceError, match="answered"):
        adb.pull(RemotePath.of("x"), tmp_path / "y")


@pytest.mark.parametrize("work_dir", [b"relative\n", b"/\n", b"\n", b"/a/../b\n", b"/a\0b\n"])
def test_hostile_work_dir(phone: Phone, adb: AdbTransport, work_dir: bytes) -> None:
    phone.faults.hijack = lambda command: iter([work_dir])
    with pytest.raises(DeviceError, match="no usable work directory"):
        adb.list(RemotePath())


@pytest.mark.parametrize(
    "serial", ["a;touch PWNED", "$(touch PWNED)", "`touch PWNED`", "-s", "it's", '"x"', "x:y", "host:kill", "../x"]
)
def test_hostile_serials_are_only_names(phone: Phone, serial: str) -> None:
    with pytest.raises(TransientDeviceError, match="not found"):
        AdbTransport(serial, server=phone.server.address).run(["true"])
    assert phone.state() == "device"  # the server lives, so it was not told to end


@pytest.mark.parametrize("serial", ["", " ", " a", "a\nb", "a\0b", "x" * 257, "\x1b[31m"])
def test_what_is_no_serial(serial: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no serial"):
        AdbTransport(serial, server=AdbServer("127.0.0.1", 1))


def test_too_long_a_command(adb: AdbTransport) -> None:
    with pytest.raises(InvalidArgumentError, match="65535"):
        adb.run(["echo", "x" * 70_000])


def test_no_server_to_start(tmp_path: Path) -> None:
    with pytest.raises(TransientDeviceError, match="no adb server answers"):
        AdbTransport("x", server=AdbServer("192.0.2.1", 5037), connect_timeout_s=0.3).run(["true"])
