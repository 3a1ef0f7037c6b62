"""Energy per op: against traces in which each op has a power of its own, and against designs that cannot tell.

The statistical figures over 200 simulations are those of benchmarks/bench_energy.py; here are a few of them.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fakes.energy_traces import EnergyTrace, make_runs
from fakes.op_energy_traces import OpScene, op_trace
from fakes.simulated_device import SimulatedDevice, sample
from melt_core.analysis.energy_design import IDLE, OUTSIDE, Timeline, shares, timelines_of
from melt_core.analysis.energy_nnls import condition, nnls, solve_all, variance_inflation
from melt_core.analysis.energy_ops import op_energy
from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.report.html import render


class TestModel:
    @pytest.mark.parametrize("sensor", ["counter", "instant", "mean"])
    def test_energy_of_each_op_type_is_near_the_truth(self, sensor: str) -> None:
        made = op_trace(OpScene.random(1, sensor=sensor, rate_hz=200.0, average_s=0.005))
        found = op_energy(made.trace)
        assert found.refusal is None
        rows = {row.key: row for row in found.rows or ()}
        for name, truth in made.truth_j.items():
            assert rows[name].gross_j == pytest.approx(truth, rel=0.03), name
        assert sum(row.gross_j for row in rows.values()) == pytest.approx(made.total_j, rel=0.01)
        assert sum(row.energy_share for row in rows.values()) == pytest.approx(1.0)

    def test_intervals_cover_the_truth(self) -> None:
        covered = []
        for seed in range(12):
            made = op_trace(OpScene.random(seed, n_tokens=200))
            for row in op_energy(made.trace).rows or ():
                if row.key in made.truth_j:
                    covered.append(row.ci95_j[0] <= made.truth_j[row.key] <= row.ci95_j[1])
        assert len(covered) == 48
        assert np.mean(covered) >= 0.85

    def test_modules_add_up_what_their_ops_cost(self) -> None:
        made = op_trace(OpScene.random(2, sensor="counter", rate_hz=500.0))
        rows = {row.key: row.gross_j for row in op_energy(made.trace, by="module").rows or ()}
        attention = made.truth_j["FLASH_ATTN_EXT"] + made.truth_j["ROPE"]
        assert rows["attention"] == pytest.approx(attention, rel=0.03)
        assert rows["ffn"] == pytest.approx(made.truth_j["MUL_MAT"], rel=0.03)

    def test_phases_need_no_ops(self) -> None:
        runs = make_runs(30, prefill_s=0.6, decode_s=0.9)
        device = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=runs)
        made = EnergyTrace.of(
            device, runs, [sample(device, "board", "power", end_s=runs[-1].end_s + 3, noise_ratio=0.05)]
        )
        rows = {row.key: row for row in op_energy(made.trace, by="phase").rows or ()}
        assert rows["prefill"].power_w == pytest.approx(9.0, rel=0.02)
        assert rows["decode"].power_w == pytest.approx(6.0, rel=0.02)

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        made = op_trace(OpScene.random(3, n_tokens=150))
        assert op_energy(made.trace, seed=5) == op_energy(made.trace, seed=5)

    def test_the_report_says_modelled(self) -> None:
        assert "By op type, modelled" in render(op_trace(OpScene.random(4, n_tokens=150)).trace)


#: What cannot be told, and what the refusal has to say of it.
UNIDENTIFIABLE: dict[str, tuple[dict[str, Any], str]] = {
    "every reading holds the same mix": (
        {"op_s": (5e-4, 2e-4, 1e-4, 1.2e-4), "n_layers": 24, "sensor": "counter", "rate_hz": 100.0},
        "the sensor is too slow",
    ),
    "the sensor averages over a second": ({"sensor": "mean", "average_s": 1.0, "rate_hz": 100.0}, ""),
    "too few readings": ({"sensor": "counter", "rate_hz": 2.0}, "readings within the runs"),
    "all ops draw the same": ({"power_w": (5.0, 5.0, 5.0, 5.0), "gap_s": 0.0}, "does not follow"),
}


class TestRefusal:
    @pytest.mark.parametrize("case", UNIDENTIFIABLE)
    def test_what_cannot_be_told_is_not_told(self, case: str) -> None:
        fixed, words = UNIDENTIFIABLE[case]
        for seed in range(5):
            found = op_energy(op_trace(OpScene.random(seed, **fixed)).trace)
            assert found.rows is None, seed
            assert words in (found.refusal or "")

    def test_a_stuck_sensor_is_no_source(self) -> None:
        scene = OpScene(n_tokens=60, sensor="instant", noise_ratio=0.0, power_w=(2.0,) * 4, idle_w=2.0)
        with pytest.raises(TraceError, match="stuck"):
            op_energy(op_trace(scene).trace)

    def test_groupings_and_ops_that_are_not_there(self) -> None:
        runs = make_runs(2)
        device = SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=runs, ripple=0.1)
        made = EnergyTrace.of(device, runs, [sample(device, "board", "power", end_s=12.0)])
        with pytest.raises(TraceError, match="--levels tokens,ops"):
            op_energy(made.trace, by="op_type")
        with pytest.raises(InvalidArgumentError, match="cannot share out energy by 'colour'"):
            op_energy(made.trace, by="colour")


class TestDesign:
    def test_shares_of_every_window_add_up_to_one(self) -> None:
        trace = op_trace(OpScene(n_tokens=20)).trace
        run = trace.runs[0]
        lines = timelines_of(trace, "op_type", [(run.start_ns, run.start_ns + run.duration_ns)])
        assert list(lines)[-1] == OUTSIDE
        begin = np.arange(0, 4_000_000_000, 7_000_000)
        found = shares(lines, begin, begin + 7_000_000)
        assert found.sum(axis=1) == pytest.approx(np.ones(len(begin)))
        assert found[0, -1] == pytest.approx(1.0), f"the last column is {IDLE}"

    def test_a_timeline_counts_time_exactly(self) -> None:
        line = Timeline.of(np.array([10, 50, 30]) * 10**9, np.array([20, 60, 45]) * 10**9)
        times = np.array([0, 10, 15, 25, 30, 40, 47, 55, 99]) * 10**9
        assert line.until(times).tolist() == [0, 0, 5, 10, 10, 20, 25, 30, 35]

    def test_overlaps_are_counted_once(self) -> None:
        line = Timeline.of(np.array([0, 5, 6]), np.array([10, 8, 12]))
        assert line.total_s == pytest.approx(12e-9)


class TestLeastSquares:
    def test_it_is_the_best_of_all_active_sets(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(200):
            n, k = 30, int(random.integers(2, 6))
            a, b = random.normal(size=(n, k)) + random.normal(), random.normal(size=n)
            x = nnls(a.T @ a, a.T @ b)
            best = np.inf
            for chosen in itertools.chain.from_iterable(itertools.combinations(range(k), m) for m in range(k + 1)):
                y = np.zeros(k)
                if chosen:
                    y[list(chosen)] = np.linalg.lstsq(a[:, chosen], b, rcond=None)[0]
                if (y >= -1e-12).all():
                    best = min(best, float(np.sum((a @ y - b) ** 2)))
            assert (x >= 0).all()
            assert np.sum((a @ x - b) ** 2) <= best * (1 + 1e-9)

    def test_many_at_once_are_each_by_itself(self) -> None:
        random = np.random.default_rng(1)
        a, b = random.normal(size=(50, 20, 3)), random.normal(size=(50, 20))
        grams, moments = np.einsum("nij,nik->njk", a, a), np.einsum("nij,ni->nj", a, b)
        each = np.array([nnls(gram, moment) for gram, moment in zip(grams, moments, strict=True)])
        assert solve_all(grams, moments) == pytest.approx(each, abs=1e-6)

    def test_condition_and_inflation_of_known_designs(self) -> None:
        assert condition(np.eye(3)) == pytest.approx(1.0)
        assert variance_inflation(np.eye(3)) == pytest.approx(np.ones(3))
        cosine = 0.9
        gram = np.array([[1.0, cosine], [cosine, 1.0]])
        assert variance_inflation(gram) == pytest.approx(np.full(2, 1 / (1 - cosine**2)))
        assert condition(gram) == pytest.approx(np.sqrt((1 + cosine) / (1 - cosine)))
        assert np.isinf(condition(np.ones((2, 2))))
        assert np.isinf(variance_inflation(np.ones((2, 2)))).all()


def test_power_that_varies_within_a_type_is_averaged_not_hidden() -> None:
    made = op_trace(replace(OpScene.random(6, sensor="counter", rate_hz=500.0), power_spread=0.4))
    for row in op_energy(made.trace).rows or ():
        if row.key in made.truth_j:
            assert row.gross_j == pytest.approx(made.truth_j[row.key], rel=0.1)
