"""Gates: what is judged, what is waited for, for how long, and what is only noted."""

from __future__ import annotations

import pytest

from melt_core.devices.gates import Gate, GateLimits, judge, pass_gates
from melt_core.devices.probe import Observation
from melt_core.devices.retry import Waiter
from melt_core.devices.telemetry.base import ReadoutBuilder
from melt_core.errors import InvalidArgumentError


def seen(
    *,
    skin_c: float | None = 30.0,
    battery: float | None = 0.8,
    powered_by: str = "battery",
    available: float | None = 4e9,
    governors: tuple[str, ...] = ("schedutil",),
    screen: str | None = "on",
) -> Observation:
    built = ReadoutBuilder("test")
    if screen is not None:
        built.fact("screen", screen)
    if skin_c is not None:
        built.add_temperature("skin", skin_c)
        built.add_temperature("usb", 90.0)  # a charging port is hot and throttles nothing
    if battery is not None:
        built.add("battery", "charge_share", "ratio", battery)
        built.add("battery", "charging", "flag", float(powered_by != "battery"))
        built.fact("powered_by", powered_by)
    if available is not None:
        built.add("mem", "available", "B", available)
    return Observation(0, 0, built.done(), governors)


def states(observation: Observation, limits: GateLimits, free_bytes: int | None = 1 << 34) -> dict[str, str]:
    return {gate.name: gate.state for gate in judge(observation, limits, free_bytes=free_bytes)}


def test_a_good_phone_passes() -> None:
    assert set(states(seen(), GateLimits(least_memory_bytes=1 << 30)).values()) == {"passed"}


def test_what_is_not_known_is_unknown_and_never_passed() -> None:
    nothing = seen(skin_c=None, battery=None, available=None, governors=(), screen=None)
    got = states(nothing, GateLimits(least_memory_bytes=1), free_bytes=None)
    assert got == dict.fromkeys(
        ("charger", "temperature", "governor", "screen", "battery", "free space", "free memory"), "unknown"
    )


@pytest.mark.parametrize(
    ("observation", "name"),
    [
        (seen(skin_c=46.0), "temperature"),
        (seen(battery=0.1), "battery"),
        (seen(powered_by="USB"), "charger"),
        (seen(available=1e6), "free memory"),
        (seen(governors=("powersave", "performance")), "governor"),
        (seen(screen="off"), "screen"),
    ],
)
def test_each_gate_fails_alone(observation: Observation, name: str) -> None:
    got = states(observation, GateLimits(least_memory_bytes=1 << 30))
    assert [gate for gate, state in got.items() if state == "failed"] == [name]


def test_gates_can_be_switched_off() -> None:
    off = GateLimits(None, True, None, None, None, None)
    assert states(seen(skin_c=99, battery=0.0, powered_by="AC"), off) == {"charger": "passed"}
    with pytest.raises(InvalidArgumentError):
        GateLimits(wait_s=float("nan"))


class Cooling:
    """A device that cools by one degree every ten seconds, under a clock of its own."""

    def __init__(self, start_c: float) -> None:
        self.now_s = 0.0
        self.start_c = start_c

    def observe(self) -> Observation:
        return seen(skin_c=self.start_c - self.now_s / 10)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def wait(self, wait_s: float) -> tuple[Gate, ...]:
        waiter = Waiter(now=lambda: self.now_s, sleep=self.sleep)
        report = pass_gates(self.observe, GateLimits(wait_s=wait_s), free_bytes=lambda: 1 << 34, waiter=waiter)
        assert report.waited_s <= wait_s
        assert report.to_metadata()["passed"] == (not report.failed)
        return report.failed


def test_heat_is_waited_for() -> None:
    device = Cooling(47.0)
    assert not device.wait(60.0)
    assert 20 <= device.now_s <= 25


def test_the_wait_is_bounded_and_then_the_run_is_marked() -> None:
    device = Cooling(60.0)
    (failed,) = device.wait(60.0)
    assert device.now_s == 60.0
    assert "54.0 degC" in failed.detail


def test_what_cannot_pass_by_itself_is_not_waited_for() -> None:
    waited: list[float] = []
    waiter = Waiter(now=lambda: 0.0, sleep=waited.append)
    report = pass_gates(lambda: seen(powered_by="USB"), GateLimits(wait_s=60), free_bytes=lambda: 0, waiter=waiter)
    assert not waited
    assert {gate.name for gate in report.failed} == {"charger", "free space"}
    assert len(report.warnings()) == 2
