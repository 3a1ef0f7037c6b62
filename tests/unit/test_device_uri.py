"""Names of devices, and repeating what fails for a while."""

from __future__ import annotations

import pytest

from melt_core.devices.retry import Patience, Waiter, retried
from melt_core.devices.uri import DeviceUri, parse_uri
from melt_core.errors import CancelledError, DeviceBusyError, DeviceError, InvalidArgumentError, TransientDeviceError


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("local", DeviceUri("local")),
        ("adb:R58N12ABCDE", DeviceUri("adb", "R58N12ABCDE")),
        ("adb:192.168.1.7:5555", DeviceUri("adb", "192.168.1.7:5555")),
        ("adb:a b'c;$(reboot)", DeviceUri("adb", "a b'c;$(reboot)")),  # data, as any other
        ("ssh:jetson-1", DeviceUri("ssh", "jetson-1")),
        ("ssh:nv@jetson-1:2222", DeviceUri("ssh", "nv@jetson-1:2222")),
        ("ssh:nv@[fe80::1]:2222", DeviceUri("ssh", "nv@[fe80::1]:2222")),
        ("ssh:[::1]", DeviceUri("ssh", "[::1]")),
        ("ios:00008110-000A", DeviceUri("ios", "00008110-000A")),
    ],
)
def test_names(text: str, uri: DeviceUri) -> None:
    assert parse_uri(text) == uri
    assert str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "phone", "adb", "adb:", "local:x", "usb:1", "ssh:", "ssh:nv@", "ssh://host", "ssh:host:0",
        "ssh:host:99999", "ssh:host:²", "ssh:::1", "ssh:-oProxyCommand=x", "ssh:nv:secret@host", "ssh:-l@host",
        "adb:-s", "adb:a\nb", "adb:a\0b", "adb:" + "x" * 300, "adb: x",
    ],
)  # fmt: skip
def test_what_names_no_device(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_uri(text)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now_s += wait_s

    @property
    def waiter(self) -> Waiter:
        return Waiter(now=lambda: self.now_s, sleep=self.sleep)


def failing(times: int, error: Exception) -> tuple[list[int], object]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, call


def test_what_passes_is_repeated_with_growing_waits(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    calls, call = failing(3, TransientDeviceError("the device is offline"))
    assert retried("push", call, patience=Patience(), waiter=clock.waiter) == "done"  # type: ignore[arg-type]
    assert len(calls) == 4
    assert clock.waits == [0.2, 0.4, 0.8]
    assert caplog.text.count("the device is offline; trying again") == 3


def test_repeating_is_bounded_in_number_and_in_time() -> None:
    clock = Clock()
    calls, call = failing(99, TransientDeviceError("offline"))
    with pytest.raises(TransientDeviceError, match=r"offline \(tried 5 times in .* s: push\)"):
        retried("push", call, patience=Patience(), waiter=clock.waiter)  # type: ignore[arg-type]
    assert len(calls) == 5
    calls, call = failing(99, TransientDeviceError("offline"))
    with pytest.raises(TransientDeviceError):
        retried("push", call, patience=Patience(attempts=99, total_s=1.0), waiter=clock.waiter)  # type: ignore[arg-type]
    assert len(calls) == 3


@pytest.mark.parametrize("error", [DeviceError("no room"), DeviceBusyError("host-2 has it"), ValueError("bug")])
def test_nothing_else_is_repeated(error: Exception) -> None:
    calls, call = failing(1, error)
    with pytest.raises(type(error)):
        retried("push", call, patience=Patience())  # type: ignore[arg-type]
    assert len(calls) == 1


def test_waiting_can_be_cancelled() -> None:
    import threading

    cancel = threading.Event()
    cancel.set()
    _, call = failing(1, TransientDeviceError("offline"))
    with pytest.raises(CancelledError):
        retried("push", call, patience=Patience(), cancel=cancel)  # type: ignore[arg-type]
