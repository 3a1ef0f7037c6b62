"""Whether a device is in a state in which numbers mean something: looked at before a run, and kept in its trace.

A gate that fails and can pass by itself (heat, charge, memory) is waited for, for a bounded time. What still fails then
marks the run: it is in the trace's metadata and warnings. What is not known is neither: "unknown", with its reason.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from melt_core.devices.probe import Observation
from melt_core.devices.retry import Waiter
from melt_core.errors import InvalidArgumentError

logger = logging.getLogger(__name__)

_POLL_S = 5.0
#: Hottest of these counts: what throttles a device.
_HOT_SITES = ("skin", "soc", "cpu", "gpu", "battery")


@dataclass(frozen=True)
class GateLimits:
    """What a device must be like before a run. None switches a gate off.

    Attributes:
        least_battery_ratio: Charge of the battery, 0..1.
        may_charge: Whether the charger may be connected: it heats, and hides what the battery gives.
        most_temperature_c: Of each of skin, SoC, CPU, GPU and battery.
        screen: ``on`` or ``off``. A phone whose screen is off may sleep in mid-run; one whose screen is on draws power
            for it, steadily.
        governors: Governors that are accepted: a steady one, and those that a phone's shell cannot change.
        least_free_bytes: Room in the work directory, once the model is there.
        least_memory_bytes: Available memory; a run takes the model's size where this is None.
        wait_s: How long may be waited for all gates together.
    """

    least_battery_ratio: float | None = 0.2
    may_charge: bool = False
    most_temperature_c: float | None = 45.0
    screen: str | None = "on"
    governors: tuple[str, ...] | None = ("performance", "schedutil", "walt")
    least_free_bytes: int | None = 256 << 20
    least_memory_bytes: int | None = None
    wait_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s <= 86400:  # NaN is not either
            raise InvalidArgumentError(f"wait_s is {self.wait_s}: give 0 to 86400 seconds")
        if self.screen not in (None, "on", "off"):
            raise InvalidArgumentError(f"screen is {self.screen!r}: give on, off or None")


@dataclass(frozen=True)
class Gate:
    """One thing that was looked at.

    Attributes:
        state: ``passed``, ``failed`` or ``unknown``.
        can_pass: Whether it may pass by itself.
    """

    name: str
    state: str
    detail: str
    can_pass: bool = False


@dataclass(frozen=True)
class GateReport:
    """All gates, after the waiting."""

    gates: tuple[Gate, ...]
    waited_s: float

    @property
    def failed(self) -> tuple[Gate, ...]:
        """Those that the run is marked with."""
        return tuple(gate for gate in self.gates if gate.state == "failed")

    def to_metadata(self) -> dict[str, Any]:
        """Returns what a trace keeps."""
        return {
            "passed": not self.failed,
            "waited_s": round(self.waited_s, 3),
            "gates": [{"name": gate.name, "state": gate.state, "detail": gate.detail} for gate in self.gates],
        }

    def warnings(self) -> list[str]:
        """Returns one text for each that failed."""
        return [f"gate {gate.name} failed before the run: {gate.detail}" for gate in self.failed]


def judge(observation: Observation, limits: GateLimits, *, free_bytes: int | None) -> tuple[Gate, ...]:
    """Returns the state of every gate that is switched on."""
    gates = [_charger(observation, limits), _temperature(observation, limits), _governor(observation, limits)]
    gates.append(_screen(observation, limits))
    battery = observation.readout.value("battery", "charge_share")
    available = observation.readout.value("mem", "available")
    free = math.nan if free_bytes is None else float(free_bytes)
    gates += [
        _at_least("battery", battery, limits.least_battery_ratio, lambda share: f"{share:.0%}", can_pass=True),
        _at_least("free space", free, limits.least_free_bytes, _megabytes),
        _at_least("free memory", available, limits.least_memory_bytes, _megabytes, can_pass=True),
    ]
    return tuple(gate for gate in gates if gate is not None)


def pass_gates(
    observe: Callable[[], Observation],
    limits: GateLimits,
    *,
    free_bytes: Callable[[], int | None],
    waiter: Waiter | None = None,
    on_wait: Callable[[Gate, float], None] | None = None,
) -> GateReport:
    """Returns the gates, having waited at most ``limits.wait_s`` for those that may pass by themselves."""
    waiter = waiter or Waiter()
    began = waiter.now()
    while True:
        gates = judge(observe(), limits, free_bytes=free_bytes())
        waited = waiter.now() - began
        pending = [gate for gate in gates if gate.state == "failed" and gate.can_pass]
        if not pending or waited >= limits.wait_s:
            return GateReport(gates, waited)
        logger.info("waiting for gate %s: %s", pending[0].name, pending[0].detail)
        if on_wait is not None:
            on_wait(pending[0], waited)
        waiter.sleep(min(_POLL_S, limits.wait_s - waited))


def _at_least(
    name: str, value: float, least: float | None, show: Callable[[float], str], *, can_pass: bool = False
) -> Gate | None:
    if least is None:
        return None
    if math.isnan(value):
        return Gate(name, "unknown", "the device does not say")
    if value < least:
        return Gate(name, "failed", f"{show(value)}, at least {show(least)} is wanted", can_pass)
    return Gate(name, "passed", show(value))


def _charger(observation: Observation, limits: GateLimits) -> Gate | None:
    powered_by = observation.readout.facts.get("powered_by") or observation.readout.facts.get("chargers_online")
    charging = observation.readout.value("battery", "charging")
    if math.isnan(charging) and math.isnan(observation.readout.value("battery", "charge_share")):
        return Gate("charger", "unknown", "the device has no battery that it speaks of")
    connected = charging == 1.0 or powered_by not in (None, "battery", "none")
    detail = f"powered by {powered_by or 'something it does not name'}"
    if not connected:
        return Gate("charger", "passed", detail)
    return Gate(
        "charger", "passed" if limits.may_charge else "failed", f"{detail}: unplug it, or use adb over the network"
    )


def _temperature(observation: Observation, limits: GateLimits) -> Gate | None:
    if limits.most_temperature_c is None:
        return None
    known = {site: observation.readout.value(site, "temperature") for site in _HOT_SITES}
    known = {site: value for site, value in known.items() if not math.isnan(value)}
    if not known:
        return Gate("temperature", "unknown", "the device shows no temperature")
    hottest = max(known, key=lambda site: known[site])
    detail = f"{hottest} {known[hottest]:.1f} degC"
    if known[hottest] > limits.most_temperature_c:
        return Gate(
            "temperature", "failed", f"{detail}, at most {limits.most_temperature_c:g} is wanted", can_pass=True
        )
    return Gate("temperature", "passed", detail)


def _governor(observation: Observation, limits: GateLimits) -> Gate | None:
    if limits.governors is None:
        return None
    if not observation.governors:
        return Gate("governor", "unknown", "the device shows no cpufreq")
    others = [name for name in observation.governors if name not in limits.governors]
    if others:
        return Gate(
            "governor", "failed", f"{', '.join(others)} changes clocks; {', '.join(limits.governors)} is wanted"
        )
    return Gate("governor", "passed", ", ".join(observation.governors))


def _screen(observation: Observation, limits: GateLimits) -> Gate | None:
    if limits.screen is None:
        return None
    screen = observation.readout.facts.get("screen")
    if screen is None:
        return Gate("screen", "unknown", "the device speaks of no screen")
    detail = f"{screen} ({observation.readout.facts.get('wakefulness', 'unknown')})"
    if screen == limits.screen:
        return Gate("screen", "passed", detail)
    how = (
        "wake it up, and keep it awake while it charges: `svc power stayon usb`" if screen == "off" else "switch it off"
    )
    return Gate("screen", "failed", f"{detail}, {limits.screen} is wanted: {how}")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
