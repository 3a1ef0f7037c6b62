"""A Monsoon HV behind pyusb: a backend that enumerates one device and answers its control and bulk transfers.

Everything above the backend is the real pyusb. Time passes only when a packet is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

ZERO = {"fine": 1200, "coarse": 900}
REFERENCE = {"fine": 51_200, "coarse": 50_900}
SCALE = {"fine": 25_000, "coarse": 6_000}  # uA and mA at the reference
CALIBRATE_EVERY = 500  # observations


class MonsoonBackend(usb.backend.IBackend):  # type: ignore[misc]
    """One unit; `current_a(t)` flows at `voltage_v`."""

    def __init__(self, current_a: Callable[[float], float], voltage_v: float = 4.0, *, model: int = 2) -> None:
        self.current_a, self.voltage_v, self.model = current_a, voltage_v, model
        self.now_ns = 0
        self.n_observations = self.n_dropped = 0
        self.sampling = False
        self.unplugged_at_s = float("inf")
        self.drop_at_s = float("inf")
        self.garble_every = 0
        self.set_values: dict[int, int] = {}
        self._n_packets = 0

    def clock(self) -> int:
        return self.now_ns

    # What a backend has to offer

    def enumerate_devices(self) -> Any:
        yield "monsoon"

    def get_device_descriptor(self, dev: Any) -> Any:
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=0x200, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0,
            bMaxPacketSize0=8, idVendor=0x2AB9, idProduct=0x0001, bcdDevice=0x100, iManufacturer=0, iProduct=0,
            iSerialNumber=0, bNumConfigurations=1, address=1, bus=1, port_number=1, port_numbers=(1,), speed=2,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: Any, config: int) -> Any:
        if config:
            raise IndexError
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=32, bNumInterfaces=1, bConfigurationValue=1, iConfiguration=0,
            bmAttributes=0x80, bMaxPower=50, extra_descriptors=[],
        )  # fmt: skip

    def get_interface_descriptor(self, dev: Any, intf: int, alt: int, config: int) -> Any:
        if intf or alt:
            raise IndexError
        return SimpleNamespace(
            bLength=9, bDescriptorType=4, bInterfaceNumber=0, bAlternateSetting=0, bNumEndpoints=1, bInterfaceClass=255,
            bInterfaceSubClass=0, bInterfaceProtocol=0, iInterface=0, extra_descriptors=[],
        )  # fmt: skip

    def get_endpoint_descriptor(self, dev: Any, ep: int, intf: int, alt: int, config: int) -> Any:
        if ep:
            raise IndexError
        return SimpleNamespace(
            bLength=7, bDescriptorType=5, bEndpointAddress=0x81, bmAttributes=2, wMaxPacketSize=64, bInterval=0,
            bRefresh=0, bSynchAddress=0, extra_descriptors=[],
        )  # fmt: skip

    def open_device(self, dev: Any) -> Any:
        return dev

    def close_device(self, dev_handle: Any) -> None:
        self.sampling = False

    def set_configuration(self, dev_handle: Any, config_value: int) -> None:
        return None

    def get_configuration(self, dev_handle: Any) -> int:
        return 1

    def claim_interface(self, dev_handle: Any, intf: int) -> None:
        return None

    def release_interface(self, dev_handle: Any, intf: int) -> None:
        return None

    def is_kernel_driver_active(self, dev_handle: Any, intf: int) -> bool:
        return False

    def ctrl_transfer(
        self, dev_handle: Any, request_type: int, request: int, value: int, index: int, data: Any, timeout: int
    ) -> int:
        if request_type == 0xC0:
            memory = {
                0x1A: SCALE["fine"], 0x1B: SCALE["coarse"], 0x25: 0, 0x26: 0, 0x42: 12345, 0x45: self.model,
                0xC0: 32, 0xC1: 1,
            }  # fmt: skip
            data[:] = type(data)("B", struct.pack("<I", memory[index & 0xFF]))
            return 4
        if request == 0x02:
            assert struct.unpack("<I", bytes(data)) == (0xFFFFFFFF,)
            self.sampling = True
        elif request == 0x03:
            self.sampling = False
        elif request == 0x01:
            self.set_values[index & 0xFF] = struct.unpack("<I", bytes(data))[0]
        return len(data)

    def bulk_read(self, dev_handle: Any, ep: int, intf: int, buff: Any, timeout: int) -> int:
        assert ep == 0x81
        assert self.sampling
        if self.now_ns / 1e9 >= self.unplugged_at_s:
            self.now_ns += timeout * 1_000_000
            raise usb.core.USBError("No such device (it may have been disconnected)", errno=19)
        if self.now_ns / 1e9 >= self.drop_at_s:  # 50 ms of observations are lost
            self.drop_at_s = float("inf")
            self.n_dropped += 250
            self.now_ns += 50_000_000
        body = b"".join(self._observation() for _ in range(3))
        packet = struct.pack("<HBB", self.n_dropped, 0, 3) + body
        self._n_packets += 1
        if self.garble_every and self._n_packets % self.garble_every == 0:
            packet = packet[:20]
        buff[: len(packet)] = type(buff)("B", packet)
        return len(packet)

    def _observation(self) -> bytes:
        number = self.n_observations
        self.n_observations += 1
        amperes = self.current_a(self.now_ns / 1e9)
        self.now_ns += 200_000
        kind = {0: 0x10, 1: 0x30}.get(number % CALIBRATE_EVERY, 0x00)
        counts = {}
        for name, per_a in (("fine", 1e6), ("coarse", 1e3)):
            span = REFERENCE[name] - ZERO[name]
            measured = ZERO[name] + amperes * per_a / SCALE[name] * span
            counts[name] = {0x10: ZERO[name], 0x30: REFERENCE[name]}.get(kind, min(round(measured), 65535))
        volts = round(self.voltage_v / 4.0 / 62.5e-6)
        return struct.pack(">8HBB", counts["coarse"], counts["fine"], 0, 0, 0, 0, volts, 0, 0, kind)
