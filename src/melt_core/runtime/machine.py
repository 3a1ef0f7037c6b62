"""What this machine is and what this build contains, as the core sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from melt_core.runtime.core import _core


def runtime_names() -> list[str]:
    """Returns the names of the runtimes in this build, such as ``["synthetic", "llama.cpp"]``."""
    return _core.runtime_names()


def runtime_details(name: str) -> dict[str, str]:
    """Returns version, commit and CPU kernels of a runtime.

    Raises:
        InvalidArgumentError: This build has no runtime of that name.
    """
    return dict(_core.runtime_details(name))


def device_info() -> dict[str, Any]:
    """Returns what this machine is: the ``device`` metadata of a trace made here."""
    info: dict[str, Any] = json.loads(_core.device_json())
    return info


def counter_info() -> dict[str, Any]:
    """Returns what can be counted per op in this process: each counter with its source, or why it is absent."""
    info: dict[str, Any] = json.loads(_core.counters_json())
    return info


def build_info() -> dict[str, Any]:
    """Returns how the core was built: the ``build`` metadata of a trace made here."""
    info: dict[str, Any] = json.loads(_core.build_json())
    return info


@dataclass(frozen=True)
class SensorStatus:
    """What one kind of sensor is on this machine.

    Attributes:
        channels: ``site/kind/unit`` of each value that it gives; none if it is absent.
        absent: The kind itself, or a part of it, and why it cannot be read.
        max_rate_hz: How often it may be read; None if it is absent.
    """

    name: str
    channels: tuple[str, ...]
    absent: dict[str, str]
    max_rate_hz: float | None


def sensor_names() -> list[str]:
    """Returns every kind of sensor that this version knows, such as ``"rapl"``."""
    return _core.sensor_names()


def sensors() -> list[SensorStatus]:
    """Returns what sensors of power, heat, clocks and load this machine has, and why it lacks the others."""
    return [
        SensorStatus(
            row["name"],
            tuple("{site}/{kind}/{unit}".format(**channel) for channel in row["channels"]),
            dict(row["absent"]),
            row["max_rate_hz"],
        )
        for row in json.loads(_core.sensors_json())
    ]


def counter_is_invariant() -> bool:
    """Tells whether the CPU's cycle counter runs at one rate, whatever the core's frequency."""
    return _core.counter_is_invariant()
