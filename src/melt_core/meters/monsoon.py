"""A Monsoon High Voltage Power Monitor on this host, through pyusb (extra ``monsoon``).

Example:
    >>> from melt_core.meters import Monsoon
    >>> with Monsoon.open() as meter:            # doctest: +SKIP
    ...     meter.set_voltage(4.0)               # the device under test gets its power from here
    ...     recording = meter.record(seconds=10)
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import numpy as np

from melt_core.errors import InvalidArgumentError, MissingExtraError, StorageError
from melt_core.meters.monsoon_protocol import (
    ENDPOINT_IN,
    HV_MODEL,
    PACKET_BYTES,
    PRODUCT_ID,
    RATE_HZ,
    REQUEST_IN,
    REQUEST_OUT,
    START_REQUEST,
    STOP_REQUEST,
    VALUE_REQUEST,
    VENDOR_ID,
    Converter,
    Operation,
    Scales,
    parse_packet,
)
from melt_core.meters.recording import Recording, bounded, gap_warnings

VOLTAGE_RANGE_V: Final = (0.8, 13.5)
_VOLTAGE_STEPS_PER_V: Final = 1 << 20
_CALIBRATE_EVERY_MS: Final = 1250
_ENDLESS: Final = 0xFFFFFFFF
_TIMEOUT_MS: Final = 1000
_GONE: Final = (errno.ENODEV, errno.ENXIO)
#: Reads that fail one after the other before the meter counts as unplugged.
_MAX_FAILURES: Final = 3


class Monsoon:
    """One connected meter. Made by `open`; leaving the ``with`` block stops it and lets go of it."""

    def __init__(self, device: Any, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Wraps a pyusb device; use `open`."""
        self._device = device
        self._clock = clock
        model = self._get(Operation.HARDWARE_MODEL)
        if model != HV_MODEL:
            raise InvalidArgumentError(f"the Monsoon is of model {model}, and only the HV ({HV_MODEL}) is understood")
        self.serial_number = self._get(Operation.SERIAL_NUMBER)
        self._scales = Scales(
            main_fine=self._get(Operation.MAIN_FINE_SCALE),
            main_coarse=self._get(Operation.MAIN_COARSE_SCALE),
            main_fine_zero=self._get(Operation.MAIN_FINE_ZERO_OFFSET),
            main_coarse_zero=self._get(Operation.MAIN_COARSE_ZERO_OFFSET),
        )

    @classmethod
    def open(cls, *, serial: str | None = None, backend: Any = None) -> Monsoon:
        """Connects to a meter.

        Args:
            serial: Which, where there are several.
            backend: Of pyusb; by default what it finds on this system.

        Raises:
            MissingExtraError: pyusb is not installed.
            StorageError: There is no such meter, or this user may not open it.
        """
        try:
            import usb.core
        except ImportError as error:
            raise MissingExtraError("pyusb", extra="monsoon") from error

        def is_it(device: Any) -> bool:
            return serial is None or str(device.serial_number) == serial

        try:
            device = usb.core.find(idVendor=VENDOR_ID, idProduct=PRODUCT_ID, custom_match=is_it, backend=backend)
            if device is None:
                wanted = f" with serial number {serial}" if serial else ""
                raise StorageError(
                    f"there is no Monsoon power monitor{wanted} on USB: is it connected and switched on?"
                )
            with contextlib.suppress(NotImplementedError, usb.core.USBError):
                if device.is_kernel_driver_active(0):
                    device.detach_kernel_driver(0)
            device.set_configuration()
            return cls(device)
        except usb.core.NoBackendError as error:
            raise StorageError("pyusb finds no libusb on this system: install libusb 1.0") from error
        except usb.core.USBError as error:
            raise StorageError(f"cannot talk to the Monsoon: {error}; may this user open it (udev rule)?") from error

    def set_voltage(self, volts: float) -> None:
        """Sets the main output, which feeds the device under test; 0 switches it off.

        Raises:
            InvalidArgumentError: Outside 0.8 to 13.5 V.
        """
        low, high = VOLTAGE_RANGE_V
        if volts != 0 and not low <= volts <= high:
            raise InvalidArgumentError(f"{volts} V: the main output gives {low} to {high} V, or 0 for off")
        value = struct.pack("<I", round(volts * _VOLTAGE_STEPS_PER_V))
        index = Operation.MAIN_VOLTAGE | value[2] << 8
        low_word = int.from_bytes(value[:2], "little")
        self._device.ctrl_transfer(REQUEST_OUT, VALUE_REQUEST, low_word, index, value, _TIMEOUT_MS)

    def record(self, *, seconds: float, stop: Callable[[], bool] = lambda: False) -> Recording:
        """Samples for so long, or until `stop` says so, 5000 times a second.

        Time is counted in the meter's own observations; where it says that it dropped some, or none came for a while,
        the host's clock says how long that was, and it is a gap.

        Raises:
            StorageError: The meter was unplugged and fewer than two samples had come by then.
        """
        import usb.core

        wall_ns, begin = time.time_ns(), self._clock()
        sampling = _Sampling(Converter(self._scales))
        maximum = struct.pack("<I", _ENDLESS)
        self._device.ctrl_transfer(REQUEST_OUT, START_REQUEST, _CALIBRATE_EVERY_MS, START_REQUEST, maximum, _TIMEOUT_MS)
        n_failed = 0
        try:
            while (elapsed := self._clock() - begin) < seconds * 1e9 and n_failed < _MAX_FAILURES and not stop():
                try:
                    data = self._device.read(ENDPOINT_IN, PACKET_BYTES, _TIMEOUT_MS)
                except usb.core.USBError as error:
                    n_failed = _MAX_FAILURES if error.errno in _GONE else n_failed + 1
                    sampling.failed(str(error), elapsed)
                    continue
                n_failed = 0
                sampling.take(bytes(data), self._clock() - begin)
        finally:
            with contextlib.suppress(usb.core.USBError):
                self._device.ctrl_transfer(REQUEST_OUT, STOP_REQUEST, 0, 0, b"", _TIMEOUT_MS)
        if n_failed == _MAX_FAILURES:
            sampling.notes.append(f"the meter was unplugged, or stopped, after {sampling.now_ns / 1e9:.3f} s")
        return sampling.recording(f"Monsoon HV {self.serial_number}", wall_ns)

    def close(self) -> None:
        """Lets go of the meter. Calling it twice is harmless."""
        import usb.util

        usb.util.dispose_resources(self._device)

    def _get(self, operation: Operation) -> int:
        data = self._device.ctrl_transfer(REQUEST_IN, VALUE_REQUEST, 0, int(operation), 4, _TIMEOUT_MS)
        if len(data) != 4:
            raise StorageError(f"the Monsoon answered {len(data)} bytes for {operation.name}, not 4")
        return int.from_bytes(bytes(data), "little")

    def __enter__(self) -> Monsoon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Sampling:
    """Packets on their way to a recording."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter
        self._rows: list[tuple[int, float, float]] = []
        self._dropped: int | None = None
        self._begun = False
        self.now_ns = 0.0  # of the next observation
        self.notes: list[str] = []
        self._n_dropped = self._n_damaged = self._n_uncalibrated = 0

    def take(self, data: bytes, host_ns: int) -> None:
        packet = parse_packet(data)
        if packet is None:
            self._n_damaged += 1
            return
        n = len(packet.types)
        if not self._begun:
            self._begun = True
            self.now_ns = max(host_ns - n * 1e9 / RATE_HZ, 0.0)
        elif packet.n_dropped != self._dropped:
            self._n_dropped += (packet.n_dropped - (self._dropped or 0)) % 65536
            self.now_ns = max(host_ns - n * 1e9 / RATE_HZ, self.now_ns + 1e9 / RATE_HZ)
        self._dropped = packet.n_dropped
        for counts, kind in zip(packet.counts, packet.types.tolist(), strict=True):
            found = self._converter.convert(counts, kind)
            if found is not None:
                self._rows.append((round(self.now_ns), *found))
            elif kind == 0:
                self._n_uncalibrated += 1
            self.now_ns += 1e9 / RATE_HZ

    def failed(self, why: str, host_ns: int) -> None:
        """After a pause the host's clock says where we are."""
        self.notes.append(f"no packet at {host_ns / 1e9:.3f} s: {why}")
        self.now_ns = max(self.now_ns, float(host_ns))

    def recording(self, source: str, wall_ns: int) -> Recording:
        if len(self._rows) < 2:
            raise StorageError(
                f"{source} gave {len(self._rows)} samples: {'; '.join(self.notes) or 'too short a time'}"
            )
        rows = np.array(self._rows, np.float64)
        time_ns = np.array([row[0] for row in self._rows], np.int64)
        notes = self.notes
        for count, what in (
            (self._n_dropped, "observations were dropped by the meter: gaps"),
            (self._n_damaged, "packets could not be read: gaps"),
            (self._n_uncalibrated, "samples before the first calibration were left out"),
        ):
            if count:
                notes.append(f"{count} {what}")
        notes += gap_warnings(time_ns)
        series = {"current": rows[:, 1], "voltage": rows[:, 2]}
        return Recording(time_ns, series, source, wall_ns, bounded(notes))
