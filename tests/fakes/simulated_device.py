"""A device whose power, energy, heat and clocks are known at every time: the truth that energy analysis is tested on.

    device = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=[Run(1.0, 0.4, 2.0)])
    device.energy_j("board", 1.0, 1.4)                           # exact: 3.6 J
    series = sample(device, "package-0", "energy", rate_hz=100)  # what a sampler would read, wrap included
    channels, samples = sample_records([series])                 # for TraceBuilder

Nothing here touches a file or a clock; `fakes.sysfs_tree` drives a sysfs tree with the same device. Times are seconds
from the device's own zero, which is a trace's time 0. Everything random comes from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melt_core.trace.format import CHANNEL, SAMPLE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A quantity over time: steps, plus a sine ripple on top. Value and integral are exact.

    Attributes:
        starts_s: When each step begins; the first value holds before the first start too.
        values: One for each step.
        ripple: Amplitude of the sine.
        ripple_hz: Its frequency.
    """

    starts_s: tuple[float, ...] = (0.0,)
    values: tuple[float, ...] = (0.0,)
    ripple: float = 0.0
    ripple_hz: float = 1.0

    def __post_init__(self) -> None:
        assert len(self.starts_s) == len(self.values) > 0
        assert list(self.starts_s) == sorted(self.starts_s)

    def at(self, time_s: ArrayLike) -> Floats:
        """Returns the value at each time."""
        t = np.asarray(time_s, float)
        step = np.clip(np.searchsorted(self.starts_s, t, side="right") - 1, 0, None)
        return np.asarray(self.values, float)[step] + self.ripple * np.sin(2 * np.pi * self.ripple_hz * t)

    def integral(self, time_s: ArrayLike) -> Floats:
        """Returns the integral from the first start to each time (negative before it)."""
        t = np.asarray(time_s, float)
        starts, values = np.asarray(self.starts_s, float), np.asarray(self.values, float)
        step = np.clip(np.searchsorted(starts, t, side="right") - 1, 0, None)
        whole = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(starts))])
        omega = 2 * np.pi * self.ripple_hz
        wave = self.ripple / omega * (np.cos(omega * starts[0]) - np.cos(omega * t))
        return whole[step] + values[step] * (t - starts[step]) + wave

    def scaled(self, factor: float) -> Curve:
        """Returns the curve times a factor."""
        values = tuple(value * factor for value in self.values)
        return replace(self, values=values, ripple=self.ripple * factor)


@dataclass(frozen=True)
class Run:
    """One repetition on the time axis: prefill, then decode."""

    start_s: float
    prefill_s: float
    decode_s: float

    @property
    def end_s(self) -> float:
        """When the last token is known."""
        return self.start_s + self.prefill_s + self.decode_s


@dataclass(frozen=True)
class SimulatedDevice:
    """What is true of the device; every sensor shows one of these, in its own way.

    Attributes:
        board_w: Power of the whole device. The sites below are fixed shares of it.
        shares: Site -> share of the board's power.
        frequency_hz: Of the CPU cluster: its steps are the throttling.
        throttle_level: State of the cooling device.
        ambient_c: Temperature without any load.
        kelvin_per_w: Steady temperature above ambient for each watt of the SoC.
        tau_s: Time constant of the SoC's temperature.
        battery_v: Voltage at the battery's terminals.
        battery_ah: Its capacity.
        charge_at_0: Share of it that is left at time 0.
        charger_w: What a charger puts into the device; above the board's power the battery charges.
    """

    board_w: Curve = field(default_factory=lambda: Curve((0.0,), (2.0,)))
    shares: dict[str, float] = field(default_factory=lambda: {"cpu": 0.5, "gpu": 0.1, "mem": 0.2, "package-0": 0.7})
    frequency_hz: Curve = field(default_factory=lambda: Curve((0.0,), (2.4e9,)))
    throttle_level: Curve = field(default_factory=Curve)
    ambient_c: float = 25.0
    kelvin_per_w: float = 4.0
    tau_s: float = 20.0
    battery_v: float = 3.85
    battery_ah: float = 4.0
    charge_at_0: float = 0.8
    charger_w: Curve = field(default_factory=Curve)

    @staticmethod
    def of_runs(
        *, idle_w: float, prefill_w: float, decode_w: float, runs: Sequence[Run], ripple: float = 0.0, **others: Any
    ) -> SimulatedDevice:
        """Returns a device that idles but for these runs."""
        starts, values = [0.0], [idle_w]
        for run in runs:
            starts += [run.start_s, run.start_s + run.prefill_s, run.end_s]
            values += [prefill_w, decode_w, idle_w]
        return SimulatedDevice(board_w=Curve(tuple(starts), tuple(values), ripple, 7.0), **others)

    def share(self, site: str) -> float:
        """Returns a site's share of the board's power."""
        return 1.0 if site in ("board", "battery") else self.shares[site]

    def power_w(self, site: str, time_s: ArrayLike) -> Floats:
        """Returns a site's power; the battery's is what it gives, negative while it charges."""
        power = self.share(site) * self.board_w.at(time_s)
        return power - self.charger_w.at(time_s) if site == "battery" else power

    def energy_j(self, site: str, start_s: float, end_s: float) -> float:
        """Returns the exact energy of a site over an interval."""
        return float(self.counter_j(site, end_s) - self.counter_j(site, start_s))

    def counter_j(self, site: str, time_s: ArrayLike) -> Floats:
        """Returns the running energy of a site since time 0."""
        drawn = self.share(site) * (self.board_w.integral(time_s) - self.board_w.integral(0.0))
        if site != "battery":
            return drawn
        charged: Floats = self.charger_w.integral(time_s) - self.charger_w.integral(0.0)
        return drawn - charged

    def charge_ah(self, time_s: ArrayLike) -> Floats:
        """Returns what is left in the battery."""
        used = self.counter_j("battery", time_s) / self.battery_v / 3600.0
        return self.charge_at_0 * self.battery_ah - used

    def temperature_c(self, time_s: ArrayLike) -> Floats:
        """Returns the SoC's temperature: first order towards what its power holds, ripple left out."""
        t = np.asarray(time_s, float)
        starts, targets, levels = self._heat
        step = np.clip(np.searchsorted(starts, t, side="right") - 1, 0, None)
        decay = np.exp(-np.maximum(t - starts[step], 0.0) / self.tau_s)
        return targets[step] + (levels[step] - targets[step]) * decay

    @cached_property
    def _heat(self) -> tuple[Floats, Floats, Floats]:
        """Start, steady temperature and first temperature of each step of the board's power."""
        starts = np.asarray(self.board_w.starts_s, float)
        targets = self.ambient_c + self.kelvin_per_w * np.asarray(self.board_w.values, float)
        levels = [float(targets[0])]
        for length_s, target in zip(np.diff(starts), targets[:-1], strict=True):
            levels.append(float(target + (levels[-1] - target) * np.exp(-length_s / self.tau_s)))
        return starts, targets, np.asarray(levels)

    def truth(self, site: str, kind: str) -> Callable[[ArrayLike], Floats]:
        """Returns the function of time that a channel shows, in stored units."""
        if kind == "power":
            return lambda t: self.power_w(site, t)
        if kind == "energy":
            return lambda t: self.counter_j(site, t)
        shown: dict[str, Callable[[ArrayLike], Floats]] = {
            "current": lambda t: self.power_w("battery", t) / self.battery_v,
            "voltage": lambda t: np.full(np.shape(t), self.battery_v),
            "charge": self.charge_ah,
            "charge_share": lambda t: self.charge_ah(t) / self.battery_ah,
            "charging": lambda t: (self.power_w("battery", t) < 0).astype(float),
            "temperature": self.temperature_c,
            "frequency": self.frequency_hz.at,
            "throttle": self.throttle_level.at,
        }
        return shown[kind]


UNITS = {
    "power": "W",
    "energy": "J",
    "current": "A",
    "voltage": "V",
    "charge": "Ah",
    "charge_share": "ratio",
    "charging": "flag",
    "temperature": "degC",
    "frequency": "Hz",
    "throttle": "level",
}


@dataclass(frozen=True)
class SampledSeries:
    """What was read of one channel. `time_ns` is when, since time 0; a reading that failed is not in it."""

    site: str
    kind: str
    unit: str
    source: str
    time_ns: NDArray[np.int64]
    value: Floats


def sample_times(
    start_s: float, end_s: float, rate_hz: float, *, jitter_s: float = 0.0, missed_ratio: float = 0.0, seed: int = 0
) -> Floats:
    """Returns when a sampler with absolute deadlines reads: never early, late by up to about `jitter_s`, some missed.

    The first and the last deadline are always met, as the sampler reads at start and stop.
    """
    random = np.random.default_rng(seed)
    n = int(np.floor((end_s - start_s) * rate_hz + 1e-9)) + 1
    times = start_s + np.arange(n) / rate_hz
    times = times + np.abs(random.normal(0.0, jitter_s, n)) if jitter_s else times
    kept = random.random(n) >= missed_ratio
    kept[[0, -1]] = True
    return np.clip(np.sort(times[kept]), start_s, None)


def sample(
    device: SimulatedDevice,
    site: str,
    kind: str,
    *,
    rate_hz: float = 100.0,
    start_s: float = 0.0,
    end_s: float = 10.0,
    jitter_s: float = 0.0,
    missed_ratio: float = 0.0,
    noise_ratio: float = 0.0,
    step: float = 0.0,
    refresh_s: float = 0.0,
    delay_s: float = 0.0,
    wrap: float | None = None,
    offset: float = 0.0,
    seed: int = 0,
) -> SampledSeries:
    """Returns what a sampler reads of one channel.

    Args:
        device: The truth.
        site: board, battery, or one of the device's shares.
        kind: power, energy, current, ...; see UNITS.
        rate_hz: Of the sampler.
        start_s: First reading.
        end_s: Last reading, at most.
        jitter_s: Spread of the lateness.
        missed_ratio: Share of deadlines that nobody read at.
        noise_ratio: Gaussian noise, as a share of the value; of energy, none.
        step: Resolution: the value is rounded to multiples of it.
        refresh_s: How often the sensor itself takes a new value; between, it repeats itself. 0: always new.
        delay_s: By how much the value is older than its time.
        wrap: A counter starts again from 0 here (a raw counter; the core's sampler unwraps it).
        offset: Of a counter at time 0.
        seed: Of everything random.
    """
    times = sample_times(start_s, end_s, rate_hz, jitter_s=jitter_s, missed_ratio=missed_ratio, seed=seed)
    taken = np.floor(times / refresh_s) * refresh_s if refresh_s else times
    value = device.truth(site, kind)(taken - delay_s) + offset
    if noise_ratio and kind != "energy":
        value = value * (1.0 + noise_ratio * np.random.default_rng(seed + 1).normal(size=len(value)))
    if step:
        value = np.floor(value / step) * step if kind == "energy" else np.round(value / step) * step
    if wrap is not None:
        value = np.mod(value, wrap)
    return SampledSeries(site, kind, UNITS[kind], "simulated", np.round(times * 1e9).astype(np.int64), value)


def sample_records(series: Sequence[SampledSeries]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns (CHANNEL rows, SAMPLE rows) for a trace; channels are numbered from 0 in this order."""
    channels = np.zeros(len(series), CHANNEL)
    parts = []
    for number, one in enumerate(series):
        for name in ("site", "kind", "unit", "source"):
            channels[name][number] = getattr(one, name).encode()
        channels["channel"][number] = number
        rows = np.zeros(len(one.time_ns), SAMPLE)
        rows["time_ns"], rows["value"], rows["channel"] = one.time_ns, one.value, number
        parts.append(rows)
    return channels, np.concatenate(parts) if parts else np.zeros(0, SAMPLE)
