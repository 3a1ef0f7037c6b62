"""Clock alignment of meter and device, and the joined trace, on simulated clocks whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes.meters import START_WALL_NS, device_of, irregular_runs, meter_ns, metered, trace_of
from fakes.simulated_device import Run, SimulatedDevice
from melt_core.analysis.samples import series_of
from melt_core.errors import InvalidArgumentError
from melt_core.meters import (
    ClockFit,
    Recording,
    align_by_load,
    align_by_pulses,
    align_by_wall_clock,
    merge,
    merged_bytes,
)
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind


def worst_ms(fit: ClockFit, *, offset_s: float, drift_ppm: float, seconds: float) -> float:
    at = np.linspace(0, seconds, 100) * 1e9
    truth = offset_s * 1e9 + at * (1 + drift_ppm * 1e-6)
    return float(np.abs(fit.to_trace_ns(at) - truth).max()) / 1e6


@pytest.mark.parametrize("rate_hz", [100, 1000])
@pytest.mark.parametrize(("seed", "drift_ppm"), [(0, 50.0), (1, -50.0), (2, 50.0), (3, 0.0)])
def test_half_an_hour_of_drift_by_the_load(seed: int, drift_ppm: float, rate_hz: float) -> None:
    # GIVEN half an hour of runs, and a meter whose clock is off by 50 ppm
    runs = irregular_runs(minutes=30, seed=seed)
    offset_s = -7.3 + 3.1 * seed
    recording = metered(
        device_of(runs), offset_s=offset_s, drift_ppm=drift_ppm, minutes=30.3, rate_hz=rate_hz, seed=seed
    )
    # WHEN they are aligned without any hint
    fit = align_by_load(trace_of(runs), recording)
    # THEN every moment is right to a millisecond
    assert worst_ms(fit, offset_s=offset_s, drift_ppm=drift_ppm, seconds=1818) < 1.0
    assert fit.error_ns < 1e6
    assert fit.drift_ppm == pytest.approx(drift_ppm, abs=1.0)


def test_half_an_hour_of_drift_by_two_pulses() -> None:
    times = np.arange(0, 1818, 0.001)
    offset_s, drift_ppm = 11.7, 50.0
    random = np.random.default_rng(5)
    pulses_s = [12.5, 12.8, 13.4, 1810.0]
    trace_s = offset_s + times * (1 + drift_ppm * 1e-6)
    power = 3.0 + random.normal(0, 0.2, len(times))
    for start in pulses_s:
        power[(trace_s >= start) & (trace_s < start + 0.05)] += 12.0
    recording = Recording(np.round(times * 1e9).astype(np.int64), {"power": power}, "meter")
    fit = align_by_pulses(recording, [round(start * 1e9) for start in pulses_s])
    assert worst_ms(fit, offset_s=offset_s, drift_ppm=drift_ppm, seconds=1818) < 1.0
    assert fit.method == "marker pulse"
    with pytest.raises(InvalidArgumentError, match="two at least"):
        align_by_pulses(recording, [12_500_000_000])
    with pytest.raises(InvalidArgumentError, match="not in the pattern"):
        align_by_pulses(recording, [12_500_000_000, 14_000_000_000])


def test_regular_runs_need_a_hint() -> None:
    runs = [Run(10.0 + 5 * i, 0.5, 2.0) for i in range(40)]
    recording = metered(device_of(runs), offset_s=30.0, drift_ppm=20.0, minutes=2.0, rate_hz=1000)
    with pytest.raises(InvalidArgumentError, match="several places alike"):
        align_by_load(trace_of(runs), recording)
    fit = align_by_load(trace_of(runs), recording, near_ns=30.4e9, within_ns=2e9)
    assert worst_ms(fit, offset_s=30.0, drift_ppm=20.0, seconds=120) < 1.0
    # The wall clocks of both are such a hint.
    dated = Recording(recording.time_ns, recording.series, "meter", START_WALL_NS + 30_700_000_000)
    assert worst_ms(align_by_load(trace_of(runs), dated), offset_s=30.0, drift_ppm=20.0, seconds=120) < 1.0
    rough = align_by_wall_clock(trace_of(runs), dated)
    assert rough.offset_ns == 30.7e9
    assert rough.error_ns >= 1e7
    with pytest.raises(InvalidArgumentError, match="does not say at which wall clock"):
        align_by_wall_clock(trace_of(runs), recording)


def marked(runs: list[Run]) -> tuple[list[tuple[float, float]], SimulatedDevice]:
    """Returns pulses before runs and after them, as `Profiler.mark` makes them, and the device with these."""
    first = (0.913, 2.137, 3.764)
    starts = (*first, *(runs[-1].end_s + start for start in first))
    pulses = [(start, start + 0.507) for start in starts]
    loads = sorted([*runs, *(Run(start, 0.25, 0.257) for start, _ in pulses)], key=lambda run: run.start_s)
    return pulses, SimulatedDevice.of_runs(idle_w=2.0, prefill_w=6.0, decode_w=6.0, runs=loads, ripple=0.2)


@pytest.mark.parametrize("rate_hz", [20.0, 100.0])
def test_pulses_tell_regular_runs_apart(rate_hz: float) -> None:
    runs = [Run(8.0 + 2 * i, 0.2, 0.8) for i in range(60)]
    pulses, device = marked(runs)
    recording = metered(device, offset_s=-3.0, drift_ppm=50.0, minutes=2.4, rate_hz=rate_hz)
    fit = align_by_load(trace_of(runs, pulses=pulses), recording)
    assert fit.method == "load and marker pulses"
    assert worst_ms(fit, offset_s=-3.0, drift_ppm=50.0, seconds=140) < min(fit.error_ns / 1e6, 700 / rate_hz)
    with pytest.raises(InvalidArgumentError, match="several places alike"):
        align_by_load(trace_of(runs), metered(device_of(runs), offset_s=-3.0, drift_ppm=50.0, minutes=2, rate_hz=50))


def test_few_steps_of_a_slow_meter_do_not_make_up_a_drift() -> None:
    runs = [Run(8.018, 0.511, 3.027)]
    pulses, device = marked(runs)
    for seed in range(5):
        recording = metered(device, offset_s=-3.0, drift_ppm=20.0, minutes=0.4, rate_hz=20, seed=seed)
        fit = align_by_load(trace_of(runs, pulses=pulses), recording)
        assert fit.drift_ppm == pytest.approx(0.0, abs=100.0)
        assert worst_ms(fit, offset_s=-3.0, drift_ppm=20.0, seconds=24) < fit.error_ns / 1e6


def test_one_long_run_fits_at_one_place_only() -> None:
    # Half a second off, a run of a minute correlates nearly as well: that is the same place, and no other.
    runs = [Run(5.0, 1.0, 60.0)]
    recording = metered(device_of(runs), offset_s=1.0, drift_ppm=20.0, minutes=1.3, rate_hz=100)
    fit = align_by_load(trace_of(runs), recording)
    assert worst_ms(fit, offset_s=1.0, drift_ppm=20.0, seconds=70) < 15.0
    assert abs(fit.drift_ppm) < 200


def test_what_was_read_long_before_does_not_matter() -> None:
    # GIVEN a meter that watched another load for ten minutes before the runs
    runs = [replace(run, start_s=run.start_s + 605.0) for run in irregular_runs(minutes=1, seed=3)]
    device = device_of([*irregular_runs(minutes=10, seed=9), *runs])
    recording = metered(device, offset_s=0.0, drift_ppm=0.0, minutes=11.2, rate_hz=50, start_wall_ns=START_WALL_NS)
    fit = align_by_load(trace_of(runs), recording)
    assert worst_ms(fit, offset_s=0.0, drift_ppm=0.0, seconds=670) < 20.0


def test_what_does_not_belong_together_is_refused() -> None:
    runs, others = irregular_runs(minutes=5, seed=1), irregular_runs(minutes=5, seed=2)
    trace = trace_of(runs)
    for seed in range(6):
        other = metered(device_of(irregular_runs(minutes=5, seed=100 + seed)), offset_s=0.0, drift_ppm=0, minutes=5,
                        rate_hz=100, seed=seed)  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            align_by_load(trace, other)
    random = np.random.default_rng(0)
    time_ns = (np.arange(30_000) * 10_000_000).astype(np.int64)
    noise = Recording(time_ns, {"power": random.normal(5, 1, len(time_ns))}, "noise")
    flat = Recording(time_ns, {"power": np.full(len(time_ns), 5.0)}, "flat")
    for wrong, what in ((noise, r"does not follow|steps of the load|not of th"), (flat, "never changes")):
        with pytest.raises(InvalidArgumentError, match=what):
            align_by_load(trace, wrong)
    empty = Trace.from_bytes(merged_bytes(trace_of(others), flat, ClockFit(0.0, 0.0, 0.0, 0, "none")))
    assert len(empty.runs) == len(others)


def test_the_joined_trace_has_the_meters_readings_on_its_own_clock(tmp_path: Path) -> None:
    runs = irregular_runs(minutes=3, seed=4)
    device, trace = device_of(runs), trace_of(runs)
    recording = metered(device, offset_s=-2.0, drift_ppm=50.0, minutes=3.1, rate_hz=500, noise_w=0.05)
    power = recording.power_w()
    power[5000:5100] = np.nan  # no reading: no sample
    merge(trace, recording, align_by_load(trace, recording), tmp_path / "joined.melt")
    joined = Trace.open(tmp_path / "joined.melt")
    assert joined.complete
    assert not joined.damage
    assert joined.runs.to_dicts() == trace.runs.to_dicts()
    meter = series_of(joined)["meter/power"]
    assert len(meter.values) == len(recording.time_ns) - 100
    assert np.all(np.isfinite(meter.values))
    truth = device.power_w("board", meter.time_ns / 1e9)
    near_step = (
        np.min(np.abs(meter.time_ns[:, None] / 1e9 - np.array(device.board_w.starts_s)[None, :]), axis=1) < 0.002
    )
    assert np.abs(meter.values - truth)[~near_step].max() < 0.4
    spans = [(run.start_s, run.end_s) for run in runs]
    measured = sum(
        float(np.sum(np.diff(own.time_ns) / 1e9 * (own.values[1:] + own.values[:-1]) / 2))
        for own in (meter.between(int(a * 1e9), int(b * 1e9)) for a, b in spans)
    )
    assert measured == pytest.approx(sum(device.energy_j("board", a, b) for a, b in spans), rel=0.01)
    about = joined.metadata["meters"]["meter"]
    assert about["clock"]["method"] == "load"
    assert about["clock"]["error_ns"] < 1e6
    assert about["n_readings"] == len(recording.time_ns)
    with pytest.raises(InvalidArgumentError, match="already"):
        merged_bytes(joined, recording, ClockFit(0.0, 0.0, 0.0, 0, "load"))
    second = Trace.from_bytes(merged_bytes(joined, recording, ClockFit(0.0, 0.0, 1e6, 0, "wall clock"), site="usb"))
    assert set(second.metadata["meters"]) == {"meter", "usb"}
    assert any("usb was aligned by wall clocks only" in text for text in second.warnings)
    with pytest.raises(InvalidArgumentError, match="do not overlap"):
        merged_bytes(trace, recording, ClockFit(1e13, 0.0, 0.0, 0, "load"))


def test_a_cut_trace_can_be_joined_and_stays_cut() -> None:
    runs = irregular_runs(minutes=2, seed=6)
    whole = bytes(trace_of(runs)._contents.buffer)
    cut = Trace.from_bytes(whole[:-40])
    recording = metered(device_of(runs), offset_s=0.0, drift_ppm=0.0, minutes=2, rate_hz=100)
    joined = Trace.from_bytes(merged_bytes(cut, recording, ClockFit(0.0, 0.0, 0.0, 0, "load")))
    assert not joined.complete
    assert len(joined.records(ChunkKind.SAMPLES)) == len(recording.time_ns)


def test_recordings_that_cannot_be_are_refused() -> None:
    time_ns = np.array([0, 10, 20], np.int64)
    for wrong in (
        lambda: Recording(time_ns[:1], {"power": np.ones(1)}, "short"),
        lambda: Recording(time_ns[::-1], {"power": np.ones(3)}, "backwards"),
        lambda: Recording(time_ns, {"colour": np.ones(3)}, "odd"),
        lambda: Recording(time_ns, {}, "nothing"),
        lambda: Recording(time_ns, {"current": np.ones(3)}, "current only").power_w(),
    ):
        with pytest.raises(InvalidArgumentError):
            wrong()
    fixed = Recording(time_ns, {"current": np.ones(3)}, "current only").with_voltage(4.0)
    assert fixed.power_w().tolist() == [4.0] * 3
    assert "was given" in fixed.warnings[0]
    assert meter_ns(5.0, offset_s=1.0, drift_ppm=0.0) == 4e9
