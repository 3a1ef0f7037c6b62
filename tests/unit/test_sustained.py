"""Sustained runs: steps of the rate on devices that throttle at known times, and none on quiet ones.

The figures over many runs are those of benchmarks/bench_throttling.py; here are a few of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes.sustained_traces import Scene, sustained_bytes, sustained_trace
from melt_core.analysis.changepoints import best_split, change_points, merged, noise_variance, without_spikes
from melt_core.analysis.sustained import sustained
from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.profiling.request import ProfileRequest
from melt_core.profiling.sustain import SustainRequest, stop_reason
from melt_core.report.html import render
from melt_core.report.sustained_html import write_sustained
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind
from melt_core.trace.tail import TraceTail, ns_run

THROTTLING = Scene(length_s=200.0, steps=((60.0, 0.7), (120.0, 0.5), (160.0, 1.0)))


class TestSteps:
    @pytest.mark.parametrize("seed", range(4))
    def test_each_step_is_found_within_two_seconds(self, seed: int) -> None:
        found = sustained([sustained_trace(replace(THROTTLING, seed=seed))])
        assert [step.time_s for step in found.steps] == pytest.approx([60.0, 120.0, 160.0], abs=2.0)
        assert all(step.after_s <= step.before_s for step in found.steps)
        assert found.time_to_throttle_s == pytest.approx(60.0, abs=2.0)
        assert found.recovery_s == pytest.approx(100.0, abs=3.0)
        ratios = [step.to_tok_s / found.steps[0].from_tok_s for step in found.steps]
        assert ratios == pytest.approx([0.7, 0.5, 1.0], rel=0.03)

    @pytest.mark.parametrize("seed", range(6))
    def test_a_quiet_run_has_none(self, seed: int) -> None:
        scene = Scene(noise=0.06, correlation=0.8, outlier_ratio=0.03, growth=0.4, drift=0.02, seed=seed)
        found = sustained([sustained_trace(scene)])
        assert found.steps == ()
        assert found.throttled_tok_s is None
        assert found.time_to_throttle_s is None
        assert "did not step down" in found.missing["time_to_throttle_s"]
        assert "never stepped down" in found.missing["recovery_s"]

    def test_what_a_longer_context_costs_is_no_step(self) -> None:
        scene = Scene(growth=1.0, n_output=200, noise=0.01)  # a token's time doubles within each prompt
        assert sustained([sustained_trace(scene)]).steps == ()


class TestStates:
    def test_rates_of_each_state_are_those_of_the_device(self) -> None:
        found = sustained([sustained_trace(replace(THROTTLING, growth=0.0, outlier_ratio=0.0))])
        assert found.cold_tok_s is not None
        assert found.cold_tok_s.median == pytest.approx(20.0, rel=0.03)
        assert found.warm_tok_s is not None
        assert found.warm_tok_s.median == pytest.approx(20.0, rel=0.03)
        assert found.throttled_tok_s is not None
        assert 10.0 <= found.throttled_tok_s.median <= 14.5
        assert found.sustained_tok_s is not None

    def test_tokens_carry_heat_clocks_and_state(self) -> None:
        tokens = sustained([sustained_trace(THROTTLING)]).tokens
        at = np.searchsorted(tokens["time_s"], [30.0, 90.0, 140.0])
        assert tokens["frequency_hz"][at] == pytest.approx([2.4e9, 1.68e9, 1.2e9], rel=0.01)
        assert tokens["throttle_level"][at].tolist() == [0.0, 1.0, 1.0]
        assert tokens["state"][at].tolist() == ["warm", "throttled", "throttled"]
        assert tokens["state"][5] == "cold"
        assert tokens["temperature_c"][at[1]] == pytest.approx(30 + 30 * (1 - np.exp(-90 / 40)), abs=1.0)

    def test_without_a_temperature_nothing_is_warm(self) -> None:
        found = sustained([sustained_trace(replace(THROTTLING, temperature_rise_c=0.0))])
        assert found.warm_tok_s is None
        assert "no temperature was read" in found.missing["warm_tok_s"]
        assert found.settled is not True
        assert len(found.steps) == 3
        assert found.peak_temperature_c is None

    def test_settled_means_neither_rate_nor_heat_moved_in_the_last_quarter(self) -> None:
        assert sustained([sustained_trace(Scene(length_s=300.0, seed=1))]).settled is True
        assert sustained([sustained_trace(Scene(length_s=60.0, seed=1))]).settled is False
        late = sustained([sustained_trace(Scene(length_s=300.0, steps=((280.0, 0.6),)))])
        assert late.settled is False


class TestSittings:
    def test_a_resumed_run_goes_on_where_it_was(self) -> None:
        first = sustained_trace(Scene(length_s=100.0, steps=((50.0, 0.6),)))
        second = sustained_trace(Scene(length_s=60.0, seed=1, start_wall_s=1_700_000_000.0 + 400.0))
        found = sustained([second, first])  # in any order
        assert found.n_segments == 2
        assert [step.time_s for step in found.steps] == pytest.approx([50.0], abs=2.0)
        assert found.wall_s == pytest.approx(460.0, abs=5.0)
        assert found.active_s == pytest.approx(160.0, abs=5.0)

    def test_a_cut_trace_keeps_what_it_has(self) -> None:
        data = sustained_bytes(THROTTLING)
        with pytest.raises(TraceError, match="decode tokens"):
            sustained([Trace.from_bytes(data[:500])])

    def test_too_short_is_said(self) -> None:
        with pytest.raises(TraceError, match="run for longer"):
            sustained([sustained_trace(Scene(length_s=0.5, n_output=10))])


class TestChangePoints:
    def test_steps_of_noise_are_placed(self) -> None:
        random = np.random.default_rng(0)
        values = np.concatenate([random.normal(mean, 0.1, 200) for mean in (0.0, 1.0, 0.4)])
        assert change_points(values) == pytest.approx([200, 400], abs=2)

    @pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
    def test_noise_alone_has_none(self, correlation: float) -> None:
        for seed in range(10):
            random = np.random.default_rng(seed)
            values, noise = np.zeros(400), random.normal(size=400)
            for at in range(1, 400):
                values[at] = correlation * values[at - 1] + noise[at]
            assert change_points(values) == [], seed

    def test_short_constant_and_empty_series(self) -> None:
        assert change_points(np.zeros(0)) == []
        assert change_points(np.ones(5)) == []
        assert change_points(np.ones(100)) == []
        assert change_points(np.append(np.ones(50), np.zeros(50))) == [50]
        assert noise_variance(np.ones(100)) == 0.0

    def test_small_steps_are_merged_and_large_ones_kept(self) -> None:
        values = np.concatenate([np.zeros(50), np.full(50, 0.01), np.full(50, 0.5)])
        assert merged(values, [50, 100], least_step=0.05) == [100]

    def test_spikes_go_and_steps_stay(self) -> None:
        values = np.append(np.zeros(50), np.ones(50)) + np.random.default_rng(0).normal(0, 0.01, 100)
        values[20] = 9.0
        kept = without_spikes(values)
        assert kept[20] < 0.1
        assert kept[60] == pytest.approx(1.0, abs=0.1)

    def test_the_best_split(self) -> None:
        assert best_split(np.array([0.0, 0, 0, 5, 5])) == 3
        assert best_split(np.array([1.0])) == 0


class TestStops:
    REQUEST = SustainRequest(ProfileRequest(model="m", output=""), minutes=1.0)

    def test_a_temperature(self) -> None:
        hot = {("soc", "temperature"): 71.0, ("skin", "temperature"): 40.0}
        assert stop_reason(self.REQUEST, hot) is None
        assert "soc at 71.0" in (stop_reason(replace(self.REQUEST, stop_temperature_c=70.0), hot) or "")
        assert stop_reason(replace(self.REQUEST, stop_temperature_c=45.0, stop_site="skin"), hot) is None
        assert "skin" in (stop_reason(replace(self.REQUEST, stop_temperature_c=40.0, stop_site="skin"), hot) or "")

    def test_a_battery(self) -> None:
        left = {("battery", "charge_share"): 0.2}
        assert stop_reason(replace(self.REQUEST, stop_charge_ratio=0.1), left) is None
        assert "battery at 20%" in (stop_reason(replace(self.REQUEST, stop_charge_ratio=0.2), left) or "")

    @pytest.mark.parametrize(
        "wrong", [{"minutes": 0.0}, {"minutes": float("nan")}, {"stop_temperature_c": -3.0}, {"stop_charge_ratio": 1.0}]
    )
    def test_numbers_out_of_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(InvalidArgumentError):
            replace(self.REQUEST, **wrong)

    def test_a_request_survives_the_way_to_the_file_and_back(self) -> None:
        request = replace(self.REQUEST, stop_temperature_c=50.0)
        assert SustainRequest.from_json(request.to_json()) == request


def test_the_tail_of_a_growing_trace_is_read_chunk_by_chunk(tmp_path: Path) -> None:
    data = sustained_bytes(Scene(length_s=20.0))
    path = tmp_path / "t.melt"
    tail = TraceTail(path)
    assert tail.latest() == {}
    assert tail.ns_run() == 0
    for cut in (10, 100, len(data) // 2, len(data) - 50, len(data)):
        path.write_bytes(data[:cut])
        found = tail.latest()
    trace = Trace.from_bytes(data)
    assert tail.ns_run() == ns_run(trace.records(ChunkKind.RUNS)) >= 20e9
    whole = trace.samples
    power = whole[whole["kind"] == "power"]["value"]
    assert found[("board", "power")] == power[-1]
    assert set(found) == {("soc", "temperature"), ("cpu-policy0", "frequency"), ("soc", "throttle"), ("board", "power")}


def test_json_and_reports(tmp_path: Path) -> None:
    trace = sustained_trace(THROTTLING)
    found = sustained([trace], stopped_by="time")
    text = json.dumps(found.to_json())
    assert json.loads(text)["cold_tok_s"]["n"] > 10
    write_sustained([trace], found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    for words in ("What it keeps up", "Tokens per second", "Power", "Temperature", "Clocks", "the rate steps"):
        assert words in page, words
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Heat and clocks" in render(trace)
