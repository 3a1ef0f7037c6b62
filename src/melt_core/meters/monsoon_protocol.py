"""The bytes that a Monsoon High Voltage Power Monitor speaks over USB, as its maker's library PyMonsoon does.

Control transfers set and get values by an operation code, start and stop sampling. Samples come in packets of 64 bytes
from endpoint 0x81, 5000 observations a second, one to three in a packet:

    | dropped u16 LE | flags u8 | n u8 | n x 18 bytes |
    observation: 8 x u16 BE: main coarse, main fine, USB coarse, USB fine, aux coarse, aux fine, main V, USB V;
                 then gain u8, type u8 (bits 4 and 5: 0 measurement, 1 zero calibration, 3 reference calibration)

A current is measured in a fine and a coarse range at once; the fine one is right until it is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

VENDOR_ID: Final = 0x2AB9
PRODUCT_ID: Final = 0x0001
REQUEST_IN: Final = 0xC0
REQUEST_OUT: Final = 0x40
VALUE_REQUEST: Final = 0x01
START_REQUEST: Final = 0x02
STOP_REQUEST: Final = 0x03
ENDPOINT_IN: Final = 0x81
PACKET_BYTES: Final = 64
OBSERVATION_BYTES: Final = 18
RATE_HZ: Final = 5000.0
HV_MODEL: Final = 2

_FINE_FULL: Final = 64000  # of 65535: above it the fine range is no longer linear
_VOLTS_PER_COUNT: Final = 62.5e-6
_MAIN_VOLTAGE_SCALE: Final = 4.0  # the HV's divider
_KEPT_CALIBRATIONS: Final = 5


class Operation(IntEnum):
    """What a control transfer sets or gets."""

    MAIN_FINE_SCALE = 0x1A
    MAIN_COARSE_SCALE = 0x1B
    MAIN_FINE_ZERO_OFFSET = 0x25
    MAIN_COARSE_ZERO_OFFSET = 0x26
    MAIN_VOLTAGE = 0x41
    SERIAL_NUMBER = 0x42
    HARDWARE_MODEL = 0x45
    FIRMWARE_VERSION = 0xC0
    PROTOCOL_VERSION = 0xC1


class SampleType(IntEnum):
    """What an observation is of."""

    MEASUREMENT = 0x00
    ZERO_CALIBRATION = 0x10
    INVALID = 0x20
    REFERENCE_CALIBRATION = 0x30


@dataclass(frozen=True)
class Scales:
    """Calibration values of one unit, from its memory."""

    main_fine: float
    main_coarse: float
    main_fine_zero: float
    main_coarse_zero: float


@dataclass(frozen=True)
class Packet:
    """One packet: what was lost before it, and its observations, [n, 8] counts and [n] types."""

    n_dropped: int
    counts: NDArray[np.uint16]
    types: NDArray[np.uint8]


def parse_packet(data: bytes) -> Packet | None:
    """Returns a packet; None for bytes that are none."""
    n = data[3] if len(data) >= 4 else 0
    if n == 0 or len(data) < 4 + n * OBSERVATION_BYTES:
        return None
    body = np.frombuffer(data, np.uint8, n * OBSERVATION_BYTES, 4).reshape(n, OBSERVATION_BYTES)
    counts = np.ascontiguousarray(body[:, :16]).view(">u2").astype(np.uint16)
    return Packet(int.from_bytes(data[:2], "little"), counts, (body[:, 17] & 0x30).astype(np.uint8))


@dataclass
class _Range:
    """One range of the current, calibrated again and again by the unit itself."""

    scale: float
    zero_offset: float
    zeros: list[float] = field(default_factory=list)
    references: list[float] = field(default_factory=list)

    def note(self, into: list[float], count: float) -> None:
        into.append(count)
        del into[:-_KEPT_CALIBRATIONS]

    @property
    def ready(self) -> bool:
        return bool(self.zeros and self.references)

    def milliamperes(self, count: float) -> float:
        zero = self.zero_offset + float(np.mean(self.zeros))
        span = float(np.mean(self.references)) - zero
        return (count - zero) * self.scale / span if span else float("nan")


class Converter:
    """Counts to A and V; nothing before the first zero and reference calibration have come."""

    def __init__(self, scales: Scales) -> None:
        """Takes the unit's own calibration values."""
        self._fine = _Range(scales.main_fine, scales.main_fine_zero)
        self._coarse = _Range(scales.main_coarse, scales.main_coarse_zero)

    def convert(self, counts: NDArray[np.uint16], kind: int) -> tuple[float, float] | None:
        """Returns (current in A, voltage in V) of a measurement; None for a calibration, or before there was one."""
        coarse, fine = float(counts[0]), float(counts[1])
        if kind == SampleType.ZERO_CALIBRATION:
            self._coarse.note(self._coarse.zeros, coarse)
            self._fine.note(self._fine.zeros, fine)
        elif kind == SampleType.REFERENCE_CALIBRATION:
            self._coarse.note(self._coarse.references, coarse)
            self._fine.note(self._fine.references, fine)
        if kind != SampleType.MEASUREMENT or not (self._fine.ready and self._coarse.ready):
            return None
        if fine < _FINE_FULL:
            amperes = self._fine.milliamperes(fine) / 1000.0 * 1e-3  # the fine scale is in uA
        else:
            amperes = self._coarse.milliamperes(coarse) * 1e-3
        return amperes, float(counts[6]) * _VOLTS_PER_COUNT * _MAIN_VOLTAGE_SCALE
