"""Clock alignment against simulated clocks, whose truth is known."""

from __future__ import annotations

import random

import pytest

from melt_core.devices.clock import Exchange, align
from melt_core.errors import DeviceError

S = 1_000_000_000


def simulate(
    *,
    seed: int,
    drift_ppm: float,
    offset_ns: int,
    duration_s: float,
    n: int,
    delay_us: tuple[float, float] = (100.0, 100.0),
    jitter_us: float = 300.0,
) -> list[Exchange]:
    """Returns round trips with exponential extra delays each way, one in ten of them a hundred times as long."""
    draw = random.Random(seed)
    made = []
    for index in range(n):
        send = 5 * S + int(index * duration_s * S / max(n - 1, 1))
        extra = [draw.expovariate(1 / (jitter_us * (100 if draw.random() < 0.1 else 1))) for _ in range(2)]
        there, back = (int(1e3 * (base + more)) for base, more in zip(delay_us, extra, strict=True))
        at = send + there
        made.append(Exchange(send, at + offset_ns + round(at * drift_ppm / 1e6), at + back))
    draw.shuffle(made)
    return made


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("drift_ppm", [-50.0, 0.0, 50.0])
def test_half_an_hour_at_50_ppm_is_within_a_tenth_of_a_millisecond(seed: int, drift_ppm: float) -> None:
    offset = 123_456_789_012_345
    exchanges = simulate(seed=seed, drift_ppm=drift_ppm, offset_ns=offset, duration_s=1800, n=1800)
    alignment = align(exchanges)
    assert alignment.drift_ppm == pytest.approx(drift_ppm, abs=0.5)
    for at_s in (0, 900, 1800):
        host = 5 * S + at_s * S
        error = alignment.to_device(host) - (host + offset + round(host * drift_ppm / 1e6))
        assert abs(error) < 100_000
        assert abs(error) <= alignment.error_ns  # the bound holds
    assert not alignment.warnings


def test_the_bound_covers_ways_of_different_length() -> None:
    # GIVEN 9 ms there and 1 ms back: nothing can tell, so the middle is off by 4 ms
    exchanges = simulate(
        seed=1, drift_ppm=20, offset_ns=-7 * S, duration_s=60, n=60, delay_us=(9000, 1000), jitter_us=50
    )
    alignment = align(exchanges)
    host = 30 * S
    error = alignment.to_device(host) - (host - 7 * S + round(host * 20 / 1e6))
    assert 3.5e6 < abs(error) <= alignment.error_ns < 7e6


def test_a_moment_gives_an_offset_and_no_drift() -> None:
    alignment = align(simulate(seed=3, drift_ppm=40, offset_ns=S, duration_s=0.05, n=20))
    assert alignment.drift_ppm == 0.0
    assert alignment.n_kept == 1
    assert abs(alignment.to_device(5 * S) - (6 * S + 200_000)) <= alignment.error_ns


def test_a_clock_that_slept_is_named() -> None:
    before = simulate(seed=4, drift_ppm=0, offset_ns=0, duration_s=60, n=60)
    after = [Exchange(one.send_ns + 60 * S, one.device_ns + 90 * S, one.receive_ns + 60 * S) for one in before]
    alignment = align(before + after)
    assert any("jumped by 3" in warning for warning in alignment.warnings)
    assert alignment.error_ns > 1e9


def test_one_round_trip_is_enough_and_none_is_an_error() -> None:
    assert align([Exchange(100, 1_000, 300)]).to_metadata()["error_us"] == 0.1
    with pytest.raises(DeviceError):
        align([Exchange(300, 1_000, 100)])
