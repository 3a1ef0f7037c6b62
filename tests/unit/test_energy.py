"""Energy from samples: against a simulated device whose energy is known exactly, and against sensors that misbehave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.energy_traces import IDLE_S, N_OUTPUT, N_PROMPT, EnergyTrace, make_runs
from fakes.simulated_device import Curve, Run, SampledSeries, SimulatedDevice, sample
from fakes.trace_builder import toy_trace
from melt_core.analysis.energy import EnergyReport, PhaseEnergy, energy_of
from melt_core.cli.main import main
from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.report.html import render
from melt_core.trace import Trace

RUNS = make_runs(3)
END_S = RUNS[-1].end_s + IDLE_S + 0.02
DEVICE = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=RUNS, ripple=0.3)


def read(site: str = "board", kind: str = "power", device: SimulatedDevice = DEVICE, **options: Any) -> SampledSeries:
    return sample(device, site, kind, end_s=options.pop("end_s", END_S), **options)


def scaled(series: SampledSeries, unit: str, factor: float) -> SampledSeries:
    return replace(series, unit=unit, value=series.value * factor)


def named(report: EnergyReport, phase: str) -> PhaseEnergy:
    return report.total if phase == "total" else next(row for row in report.phases if row.phase == phase)


def battery(sign: float = 1.0, unit: str = "A", factor: float = 1.0, **options: Any) -> list[SampledSeries]:
    current = scaled(read("battery", "current", noise_ratio=0.01, **options), unit, factor * sign)
    return [current, read("battery", "voltage", **options), read("battery", "charging", **options)]


#: How a device may be read; every one of them has to give the truth.
VARIANTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "power": ("board", lambda **o: [read(**o)], {}),
    "power in mW": ("board", lambda **o: [scaled(read(**o), "mW", 1e3)], {}),
    "power in uW": ("board", lambda **o: [scaled(read(**o), "uW", 1e6)], {}),
    "power, sign turned": ("board", lambda **o: [scaled(read(**o), "W", -1.0)], {}),
    "power, coarse steps": ("board", lambda **o: [read(step=0.025, **o)], {}),
    "power, noise": ("board", lambda **o: [read(noise_ratio=0.03, **o)], {}),
    "power, late and missed": ("board", lambda **o: [read(jitter_s=0.002, missed_ratio=0.1, **o)], {}),
    "counter": ("package-0", lambda **o: [read("package-0", "energy", **o)], {}),
    "counter in uJ": ("package-0", lambda **o: [scaled(read("package-0", "energy", **o), "uJ", 1e6)], {}),
    "counter, late and missed": (
        "package-0", lambda **o: [read("package-0", "energy", jitter_s=0.002, missed_ratio=0.1, step=61e-6, **o)], {}
    ),
    "counter that wraps": (
        "package-0",
        lambda **o: [read("package-0", "energy", wrap=20.0, offset=19.0, **o)],
        {"sensors": {"counter_ranges": {"package-0/energy": 20.0}}},
    ),
    "battery": ("battery", battery, {}),
    "battery in mA": ("battery", lambda **o: battery(unit="mA", factor=1e3, **o), {}),
    "battery, sign turned": ("battery", lambda **o: battery(sign=-1.0, **o), {}),
    "rails": ("rails", lambda **o: [read(site, "power", **o) for site in ("cpu", "gpu", "mem")], {}),
}  # fmt: skip


@pytest.mark.parametrize(("rate_hz", "tolerance"), [(100.0, 0.01), (10.0, 0.03)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_total_and_phases_are_the_truth(variant: str, rate_hz: float, tolerance: float) -> None:
    site, series, metadata = VARIANTS[variant]
    made = EnergyTrace.of(DEVICE, RUNS, series(rate_hz=rate_hz), metadata=metadata)
    report = energy_of(made.trace)
    for phase in ("total", "prefill", "decode"):
        truth = made.truth_j(site, phase) if site != "rails" else 0.8 * made.truth_j("board", phase)
        assert named(report, phase).gross_j == pytest.approx(truth, rel=tolerance), phase


@pytest.mark.parametrize("rate_hz", [10.0, 100.0])
def test_the_interval_covers_the_truth(rate_hz: float) -> None:
    covered = []
    for seed in range(40):
        made = EnergyTrace.of(DEVICE, RUNS, [read(rate_hz=rate_hz, noise_ratio=0.05, seed=seed)])
        report = energy_of(made.trace)
        for phase in ("total", "prefill", "decode"):
            low, high = named(report, phase).ci95_j or (0.0, 0.0)
            covered.append(low <= made.truth_j("board", phase) <= high)
    assert np.mean(covered) >= 0.9


def test_net_is_gross_less_idle_power_over_the_time() -> None:
    report = energy_of(EnergyTrace.of(DEVICE, RUNS, [read()]).trace)
    assert report.total.idle_w == pytest.approx(2.0, rel=0.01)
    assert report.total.wall_s == pytest.approx(sum(run.end_s - run.start_s for run in RUNS))
    assert report.total.net_j == pytest.approx((report.total.gross_j or 0) - 2.0 * report.total.wall_s, rel=0.01)


def test_without_idle_windows_nothing_is_net_and_it_says_why() -> None:
    report = energy_of(EnergyTrace.of(DEVICE, RUNS, [read()], idle=False).trace)
    assert report.total.net_j is None
    assert report.total.gross_j is not None
    assert "--idle-s" in report.missing["idle_w"]
    # AND on a simulated clock, as this trace's, that alone would not do
    assert "clock=host (a simulated clock stands still" in report.missing["idle_w"]


def test_idle_power_that_drifts_is_a_warning() -> None:
    board = Curve((0.0, RUNS[0].start_s, RUNS[-1].end_s), (2.0, 6.0, 3.0))
    device = SimulatedDevice(board_w=board)
    report = energy_of(EnergyTrace.of(device, RUNS, [read(device=device)]).trace)
    assert report.idle is not None
    assert (report.idle.before_w, report.idle.after_w) == (pytest.approx(2.0), pytest.approx(3.0))
    assert any("idle power was 2 W before" in text for text in report.warnings)


def test_tokens_of_prefill_and_decode_are_never_mixed() -> None:
    made = EnergyTrace.of(DEVICE, RUNS, [read()])
    per_token = energy_of(made.trace).to_json()["per_token"]
    assert per_token["prefill_j"] == pytest.approx(made.truth_j("board", "prefill") / N_PROMPT / 3, rel=0.01)
    assert per_token["decode_j"] == pytest.approx(made.truth_j("board", "decode") / N_OUTPUT / 3, rel=0.01)


class TestRefusal:
    def test_a_slow_gauge_says_how_long_a_window_it_needs(self) -> None:
        made = EnergyTrace.of(DEVICE, RUNS, battery(rate_hz=10, refresh_s=1.0))
        report = energy_of(made.trace)
        prefill = named(report, "prefill")
        assert prefill.gross_j is None
        assert prefill.reason is not None
        assert "needs" in prefill.reason
        assert (report.sources[0].shortest_window_s or 0) > 0.8

    def test_what_runs_alone_are_too_short_for_is_widened_to_one_window(self) -> None:
        # GIVEN a gauge that counts charge in steps of 0.5 mAh, a step every second or so
        runs = make_runs(20, prefill_s=0.2, decode_s=1.0)
        device = SimulatedDevice.of_runs(idle_w=5.0, prefill_w=9.0, decode_w=6.0, runs=runs)
        end_s = runs[-1].end_s + IDLE_S
        series = [
            sample(device, "battery", "charge", rate_hz=10, end_s=end_s, step=0.0005),
            sample(device, "battery", "voltage", rate_hz=10, end_s=end_s),
        ]
        made = EnergyTrace.of(device, runs, series)
        report = energy_of(made.trace, error_ratio=0.1)
        # THEN the total is that of one window over all runs, pauses included, near its own truth
        truth = device.energy_j("battery", runs[0].start_s, runs[-1].end_s)
        assert "widened" in report.total.notes[0]
        assert report.total.gross_j == pytest.approx(truth, rel=0.1)
        assert report.total.wall_s == pytest.approx(runs[-1].end_s - runs[0].start_s)
        assert all(row.gross_j is None for row in report.phases if row.phase == "prefill")

    def test_a_charger_makes_the_window_invalid(self) -> None:
        device = replace(DEVICE, charger_w=Curve((0.0, RUNS[1].start_s + 1.0), (0.0, 15.0)))
        series = [read("battery", kind, device=device) for kind in ("current", "voltage", "charging")]
        report = energy_of(EnergyTrace.of(device, RUNS, series).trace)
        assert report.total.gross_j is None
        assert "a charger was connected at" in (report.total.reason or "")
        assert [run.gross_j is None for run in report.runs] == [False, True, True]

    def test_a_charger_shows_without_a_flag_too(self) -> None:
        device = replace(DEVICE, charger_w=Curve((0.0, RUNS[1].start_s + 1.0), (0.0, 15.0)))
        series = [read("battery", kind, device=device) for kind in ("current", "voltage")]
        report = energy_of(EnergyTrace.of(device, RUNS, series).trace)
        assert "charger" in (report.total.reason or "")

    def test_a_charged_battery_gives_way_to_another_source(self) -> None:
        device = replace(DEVICE, charger_w=Curve((0.0,), (15.0,)))
        series = [read("battery", kind, device=device) for kind in ("current", "voltage")]
        made = EnergyTrace.of(device, RUNS, [*series, read("package-0", "energy", device=device)])
        report = energy_of(made.trace)
        assert report.total.source == "package-0/energy"
        assert report.total.gross_j == pytest.approx(made.truth_j("package-0", "total"), rel=0.01)
        assert any("charger" in (one.reason or "") for one in report.sources)


class TestBadSensors:
    def test_one_that_vanishes_is_named_and_not_extrapolated(self) -> None:
        gone_s = RUNS[1].start_s + 1.0
        report = energy_of(EnergyTrace.of(DEVICE, RUNS, [read(end_s=gone_s)]).trace)
        assert report.total.gross_j is None
        assert "no usable reading" in (report.total.reason or "")
        assert report.runs[0].gross_j is not None

    @pytest.mark.parametrize("noise_ratio", [0.0, 0.02])
    def test_one_that_freezes_is_named(self, noise_ratio: float) -> None:
        series = read(noise_ratio=noise_ratio)
        time_s = series.time_ns / 1e9
        stuck = (time_s > RUNS[1].start_s + 0.4) & (time_s < RUNS[1].start_s + 2.4)
        value = np.where(stuck, series.value[np.argmax(stuck)], series.value)
        report = energy_of(EnergyTrace.of(DEVICE, RUNS, [replace(series, value=value)]).trace)
        assert "stood still for 2" in (report.total.reason or "")
        assert report.runs[0].gross_j == pytest.approx(
            DEVICE.energy_j("board", RUNS[0].start_s, RUNS[0].end_s), rel=0.01
        )

    def test_a_steady_draw_is_not_taken_for_a_frozen_sensor(self) -> None:
        device = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=RUNS)
        made = EnergyTrace.of(device, RUNS, [read(device=device, step=0.025)])
        report = energy_of(made.trace)
        assert not report.warnings
        assert report.total.gross_j == pytest.approx(made.truth_j("board", "total"), rel=0.01)
        assert report.idle is not None

    def test_one_that_reads_the_same_throughout_is_refused(self) -> None:
        series = read()
        with pytest.raises(TraceError, match=r"can be used: board/power: it read .* is stuck"):
            energy_of(EnergyTrace.of(DEVICE, RUNS, [replace(series, value=np.full(len(series.value), 5.0))]).trace)

    def test_readings_that_jump_are_left_out_and_counted(self) -> None:
        series = read()
        value = series.value.copy()
        value[[700, 900]] = 5e4
        made = EnergyTrace.of(DEVICE, RUNS, [replace(series, value=value)])
        report = energy_of(made.trace)
        assert report.total.gross_j == pytest.approx(made.truth_j("board", "total"), rel=0.01)
        assert any("2 readings left out" in text for text in report.warnings)

    def test_a_counter_that_jumps_is_bounded(self) -> None:
        series = read("package-0", "energy")
        value = series.value + np.where(np.arange(len(series.value)) >= 800, 1e6, 0.0)
        made = EnergyTrace.of(DEVICE, RUNS, [replace(series, value=value)])
        report = energy_of(made.trace)
        assert report.total.gross_j == pytest.approx(made.truth_j("package-0", "total"), rel=0.01)
        assert any("jumped" in text for text in report.warnings)

    def test_a_counter_that_wraps_at_no_known_value_is_named(self) -> None:
        made = EnergyTrace.of(DEVICE, RUNS, [read("package-0", "energy", wrap=20.0)])
        report = energy_of(made.trace)
        assert any("where it begins again is not known (" in text for text in report.warnings)
        assert report.total.gross_j == pytest.approx(made.truth_j("package-0", "total"), rel=0.01)

    def test_a_counter_that_may_have_wrapped_unseen_is_no_number(self) -> None:
        # GIVEN a counter of 20 J that nobody read for 6 s, in which it began again at least once
        series = read("package-0", "energy", wrap=20.0)
        time_s = series.time_ns / 1e9
        kept = (time_s < RUNS[1].start_s) | (time_s > RUNS[1].start_s + 6.0)
        series = replace(series, time_ns=series.time_ns[kept], value=series.value[kept])
        metadata = {"sensors": {"counter_ranges": {"package-0/energy": 20.0}}}
        report = energy_of(EnergyTrace.of(DEVICE, RUNS, [series], metadata=metadata).trace)
        # THEN it is not taken for one wrap, and the runs beside it keep their figures
        assert report.total.gross_j is None
        assert "may have begun again" in (report.total.reason or "")
        assert report.runs[0].gross_j == pytest.approx(
            DEVICE.energy_j("package-0", RUNS[0].start_s, RUNS[0].end_s), rel=0.01
        )

    def test_gaps_are_filled_only_where_they_are_short(self) -> None:
        series = read(noise_ratio=0.01)
        time_s = series.time_ns / 1e9
        for length_s, refused in ((0.3, False), (1.5, True)):
            value = np.where(
                (time_s > RUNS[0].start_s + 1) & (time_s < RUNS[0].start_s + 1 + length_s), np.nan, series.value
            )
            report = energy_of(EnergyTrace.of(DEVICE, RUNS, [replace(series, value=value)]).trace)
            assert (report.total.gross_j is None) == refused, length_s
            if not refused:
                exact = energy_of(EnergyTrace.of(DEVICE, RUNS, [series]).trace).total.ci95_j or (0, 0)
                wide = report.total.ci95_j or (0, 0)
                assert wide[1] - wide[0] > 2 * (exact[1] - exact[0]), "what is not known widens the interval"

    def test_a_unit_that_is_not_known_is_no_number(self) -> None:
        made = EnergyTrace.of(DEVICE, RUNS, [replace(read(), unit="hp"), read("package-0", "energy")])
        report = energy_of(made.trace)
        assert "'hp'" in report.missing["board/power"]
        assert report.total.source == "package-0/energy"

    def test_a_trace_without_sensors_says_why(self) -> None:
        with pytest.raises(TraceError, match="no sensor was recorded"):
            energy_of(Trace.from_bytes(toy_trace()))
        metadata = {"sensors": {"absent": {"rapl": "no /sys/class/powercap: not this CPU"}}}
        with pytest.raises(TraceError, match="rapl: no /sys/class/powercap"):
            energy_of(EnergyTrace.of(DEVICE, RUNS, [], metadata=metadata).trace)

    def test_random_garbage_never_escapes_as_another_error(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(150):
            n = int(random.integers(0, 40))
            kind, unit = [("power", "W"), ("energy", "J"), ("current", "A"), ("charge", "Ah")][int(random.integers(4))]
            value = random.choice([0.0, -1.0, 1e300, -1e300, np.nan, np.inf, 1e-300, 5.0], n)
            times = np.sort(random.integers(0, int(END_S * 1e9), n))
            series = [SampledSeries("battery", kind, unit, "x", times, value)]
            series.append(SampledSeries("battery", "voltage", "V", "x", times, value))
            try:
                report = energy_of(EnergyTrace.of(DEVICE, RUNS, series).trace)
            except TraceError:
                continue
            json.dumps(report.to_json())


def test_a_source_can_be_chosen() -> None:
    made = EnergyTrace.of(DEVICE, RUNS, [read(), read("cpu"), read("mem")])
    report = energy_of(made.trace, source="cpu/power + mem/power")
    assert report.total.gross_j == pytest.approx(0.7 * made.truth_j("board", "total"), rel=0.01)
    with pytest.raises(InvalidArgumentError, match="no source 'x'"):
        energy_of(made.trace, source="x")


def test_a_sensor_late_by_its_own_averaging_is_found_out() -> None:
    # GIVEN a sensor that shows the mean of the last second
    series = read()
    width = 100
    value = np.convolve(
        np.append(np.full(width - 1, series.value[0]), series.value), np.full(width, 1 / width), "valid"
    )
    report = energy_of(EnergyTrace.of(DEVICE, RUNS, [replace(series, value=value)]).trace)
    # THEN short phases are refused, for that reason
    assert "averages over" in (named(report, "prefill").reason or "")


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        (tmp_path / "t.melt").write_bytes(EnergyTrace.of(DEVICE, RUNS, [read(), read("cpu", "temperature")]).data)
        return str(tmp_path / "t.melt")

    def test_json_has_the_stable_keys(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["energy", path, "--json", "--battery", "4000mAh,3.85V", "--figures", "--by", "phase"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert set(found["total"]) >= {"gross_j", "net_j", "idle_w", "wall_s", "ci95_j", "source"}
        assert [row["phase"] for row in found["phases"]] == ["prefill", "decode"]
        assert set(found["per_token"]) >= {"prefill_j", "decode_j"}
        prompt_j = found["total"]["gross_j"] / 3
        view = found["battery"]
        assert view["prompt_mah"] == pytest.approx(prompt_j / 3.85 / 3.6)
        assert view["prompts_per_charge"] == pytest.approx(4.0 * 3.85 * 3600 / prompt_j)
        assert view["continuous_hours"] == pytest.approx(4.0 * 3.85 / found["total"]["mean_w"])
        low, high = view["prompts_per_charge_ci95"]
        assert low < view["prompts_per_charge"] < high
        figures = found["figures"]
        assert figures["token_mwh"] == pytest.approx(prompt_j / N_OUTPUT / 3.6)
        assert figures["peak_temperature_c"] > 25
        assert found["ops"]["kind"] == "modelled"

    def test_text_fits_a_terminal(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["energy", path, "--battery", "4.0Ah,3.85V", "--figures", "--by", "phase"]) == 0
        out = capsys.readouterr().out
        assert "measured" in out
        assert "prompts per charge" in out
        assert max(map(len, out.splitlines())) <= 80

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--battery", "4000"], "4000mAh,3.85V"),
            (["--battery", "0mAh,3.85V"], "out of range"),
            (["--error", "0"], "--error"),
            (["--source", "moon/power"], "this trace has board/power"),
        ],
    )
    def test_bad_use_exits_with_2(
        self, path: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["energy", path, *options]) == 2
        assert words in capsys.readouterr().err

    def test_ops_are_wanted_and_not_there(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["energy", path, "--by", "op_type"]) == 1
        assert "--levels tokens,ops" in capsys.readouterr().err

    def test_no_sensor_exits_with_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "t.melt").write_bytes(toy_trace())
        assert main(["energy", str(tmp_path / "t.melt")]) == 1
        assert "no readings of power or energy" in capsys.readouterr().err


def test_the_report_shows_energy_and_heat() -> None:
    made = EnergyTrace.of(DEVICE, RUNS, [read(), read("cpu", "temperature"), read("cpu", "frequency", rate_hz=10)])
    page = render(made.trace)
    for words in ("What it cost in energy", "Power over time", "Heat and clocks", "Temperature", "Clocks"):
        assert words in page, words
    assert "What it cost in energy" not in render(Trace.from_bytes(toy_trace()))


def test_counters_become_power_in_chrome(tmp_path: Path) -> None:
    made = EnergyTrace.of(DEVICE, [Run(IDLE_S + 0.01, 0.5, 1.0)], [read("package-0", "energy", rate_hz=10, end_s=8.0)])
    made.trace.export(tmp_path / "t.json", format="chrome")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    power = [event["args"]["value"] for event in events if event["name"] == "package-0/energy, derived power [W]"]
    assert len(power) > 50
    assert max(power) == pytest.approx(0.7 * 9.0, rel=0.1)
