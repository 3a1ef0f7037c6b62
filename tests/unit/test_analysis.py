"""Figures of the toy trace, each worked out by hand from its description in fakes/trace_builder.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.trace_builder import TraceBuilder, definitions, rows_of, toy_trace
from melt_core.analysis.group import bytes_moved
from melt_core.analysis.samples import series_of
from melt_core.analysis.stats import Stat, median_interval
from melt_core.analysis.views import layer_times, n_steps, slowest_ops, token_timeline
from melt_core.errors import InvalidArgumentError
from melt_core.trace import Table, Trace
from melt_core.trace.format import GRAPH_ABORTED, NONE, RUN_WARMUP, ChunkKind, Phase, StopReason

GOLDEN = Path(__file__).parents[1] / "golden"
US = 1_000


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_bytes(toy_trace())


def groups(trace: Trace, *args: Any, **options: Any) -> dict[Any, Any]:
    return {row.key: row for row in trace.key_averages(*args, **options)}


class TestKeyAverages:
    def test_op_types(self, trace: Trace) -> None:
        # GIVEN three measured runs of 3, 3 and 4 steps: 10 graphs, each with 3 MUL_MAT of 11, 21 and 11 us
        found = groups(trace)
        assert list(found) == ["MUL_MAT", "SAMPLE", "TOKENIZE", "RMS_NORM+MUL", "GET_ROWS"]
        row = found["MUL_MAT"]
        assert (row.count, row.wall_ns) == (30, 10 * 43 * US)
        assert row.compute_ns == 10 * (40 + 38.5) * US  # thread 1 computes half a microsecond less, each
        assert row.wait_ns == 10 * (3 * 1 + 3 * 1.5) * US
        assert (row.bytes, row.flops) == (10 * 4400, 10 * 16_000)
        assert row.share == 430 / (10 * 50 + 10 * 10 + 3 * 20)
        assert sum(each.share for each in found.values()) == pytest.approx(1)

    def test_all_records_are_read_once_for_one_selection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trace = Trace.from_bytes(toy_trace())
        first = groups(trace, phase="decode")
        monkeypatch.setattr(Trace, "op_blocks", None)  # from here on they cannot be read
        assert groups(trace, phase="decode") == first
        assert groups(trace, "layer", phase="decode")
        with pytest.raises(TypeError):
            groups(trace)

    @pytest.mark.parametrize("key", ["op_type", "phase"])
    @pytest.mark.parametrize("other", [-np.inf, np.nan, 3.4e38])
    def test_bytes_that_cannot_be_are_not_known(self, key: str, other: float) -> None:
        # GIVEN a damaged definition, whose bytes add up to no number
        made = definitions()
        made["bytes_read"], made["bytes_written"] = np.inf, other
        builder = TraceBuilder()
        builder.records(ChunkKind.OP_DEFINITIONS, made)
        damaged = Trace.from_bytes(builder.finish())
        # THEN nothing warns, and there is no figure
        assert len(damaged.key_averages(key)) == 0
        assert np.isnan(bytes_moved(made)).all()

    def test_what_is_not_known_is_missing(self, trace: Trace) -> None:
        found = groups(trace)
        assert (found["GET_ROWS"].bytes, found["GET_ROWS"].flops) == (1500, None)
        assert (found["SAMPLE"].bytes, found["SAMPLE"].flops) == (None, None)
        # a group of known and unknown ops holds the known ones
        assert groups(trace, "module")["ffn"].bytes == 10 * 2200

    def test_warmup_counts_only_if_asked(self, trace: Trace) -> None:
        assert groups(trace, include_warmup=True)["MUL_MAT"].count == 39
        assert groups(trace)["TOKENIZE"].count == 3

    def test_phases(self, trace: Trace) -> None:
        found = groups(trace, "phase")
        assert {key: row.wall_ns for key, row in found.items()} == {
            "prefill": 3 * 60 * US,
            "decode": 7 * 60 * US,
            "tokenize": 3 * 20 * US,
        }
        assert {key: row.wall_ns for key, row in groups(trace, "module", phase="tokenize").items()} == {"host": 60 * US}
        decode = trace.key_averages("name", phase="decode")
        assert int(decode["wall_ns"].sum()) == found["decode"].wall_ns

    def test_layers(self, trace: Trace) -> None:
        found = groups(trace, "layer")
        assert {key: row.wall_ns for key, row in found.items()} == {0: 320 * US, None: 180 * US, 1: 160 * US}

    def test_threads_count_their_own(self, trace: Trace) -> None:
        found = groups(trace, "thread")
        assert (found[0].count, found[0].wall_ns) == (10 * 5 + 10 + 3, 660 * US)
        assert (found[1].count, found[1].wall_ns) == (50, 500 * US)
        assert found[1].bytes is None

    @pytest.mark.parametrize("key", ["name", "dtype", "weight", "backend", "module", "phase", "layer", "op_type"])
    def test_every_grouping_has_the_same_total(self, trace: Trace, key: str) -> None:
        assert int(trace.key_averages(key)["wall_ns"].sum()) == 660 * US

    def test_bad_use(self, trace: Trace) -> None:
        with pytest.raises(InvalidArgumentError, match="choose one of op_type, layer"):
            trace.key_averages("colour")
        with pytest.raises(InvalidArgumentError, match="choose one of load, tokenize"):
            trace.key_averages(phase="night")

    def test_empty_trace(self) -> None:
        table = Trace.from_bytes(TraceBuilder().finish()).key_averages()
        assert len(table) == 0
        assert table.columns == (
            "key",
            "count",
            "wall_ns",
            "share",
            "compute_ns",
            "wait_ns",
            "bytes",
            "flops",
            "live_bytes",
        )


class TestSummary:
    def test_figures(self, trace: Trace) -> None:
        summary = trace.summary()
        assert summary.load_ms == Stat(5.0, 0.0, 1, (5.0,))
        assert summary.ttft_ms == Stat(0.084, 0.0, 3, (0.084,) * 3)
        assert summary.prefill_tok_s == Stat(160_000.0, 0.0, 3, (160_000.0,) * 3)  # 8 tokens in 50 us
        assert summary.decode_tok_s == Stat(
            15_625.0, 0.0, 3, (15_625.0,) * 3
        )  # 2 tokens in 128 us, end-of-text left out
        assert summary.tpot_ms is not None
        assert summary.tpot_ms.median == 0.064
        assert summary.output_token_ids == (100, 101, 102)
        assert summary.peak_rss_bytes == 1 << 20
        assert vars(summary.ops) == {"graphs": 10, "groups": 50, "records": 100, "dropped": 0}
        assert (summary.conservation.min, summary.conservation.median, summary.conservation.n_graphs) == (1.0, 1.0, 10)
        assert summary.graph_gap.decode_ratio == 14 / 64

    def test_json(self, trace: Trace) -> None:
        value = trace.summary().to_json()
        text = json.dumps(value, allow_nan=False)
        assert json.loads(text) == value
        assert {"model", "runtime", "load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s", "output_token_ids"} <= set(
            value
        )
        assert (value["model"], value["runtime"]) == ("toy-1M", "synthetic")
        assert {"graphs", "groups", "records", "dropped"} == set(value["ops"])
        assert value["overhead"]["decode_ratio"] == 0.995
        assert value["overhead"]["prefill_ci95"] is None
        assert "an interval needs at least 5" in value["missing"]["overhead.prefill_ci95"]

    def test_an_empty_trace_misses_everything_with_a_reason(self) -> None:
        value = Trace.from_bytes(TraceBuilder().finish()).summary().to_json()
        for name in ("load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s", "peak_rss_bytes", "model", "runtime"):
            assert value[name] is None
            assert value["missing"][name]
        assert value["conservation"]["median"] is None
        assert value["overhead"]["decode_ratio"] is None

    def test_warmup_alone_is_not_measured(self) -> None:
        builder = TraceBuilder()
        builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [{"run": 0, "flags": RUN_WARMUP}]))
        value = Trace.from_bytes(builder.finish()).summary().to_json()
        assert value["missing"]["ttft_ms"] == "the trace holds no measured run, only warm-up"

    def test_cancelled_runs_count_only_if_nothing_else_is_there(self) -> None:
        def n_runs(*reasons: StopReason) -> int:
            builder = TraceBuilder()
            rows = [{"run": run, "stop_reason": reason} for run, reason in enumerate(reasons)]
            builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, rows))
            return Trace.from_bytes(builder.finish()).summary().n_runs

        assert n_runs(StopReason.LIMIT, StopReason.CANCELLED) == 1
        assert n_runs(StopReason.CANCELLED) == 1


def one_graph(**changes: Any) -> Trace:
    """Returns a trace of one run and one graph of 100 ns, whose only op took 60 + 39 ns."""
    graph = {"token": 0, "n_groups": 1, "duration_ns": 100} | changes.pop("graph", {})
    run = {"run": 0, "n_graphs": 1, "n_groups": 1, "n_records": 1} | changes.pop("run", {})
    builder = TraceBuilder()
    builder.metadata(changes.pop("metadata", {}))
    builder.records(ChunkKind.OP_DEFINITIONS, definitions())
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [run]))
    builder.records(ChunkKind.TOKENS, rows_of(ChunkKind.TOKENS, [{"phase": Phase.DECODE}]))
    builder.records(ChunkKind.GRAPHS, rows_of(ChunkKind.GRAPHS, [graph]))
    builder.records(ChunkKind.OPS, rows_of(ChunkKind.OPS, [{"compute_ns": 60, "wait_ns": 39}]))
    return Trace.from_bytes(builder.finish())


class TestConservation:
    def test_parts_over_whole(self) -> None:
        assert one_graph().summary().conservation.median == 0.99

    @pytest.mark.parametrize(
        "graph", [{"n_dropped": 1}, {"flags": GRAPH_ABORTED}, {"n_groups": 2}, {"duration_ns": 0}, {"n_groups": 0}]
    )
    def test_graphs_that_are_not_whole_are_left_out_and_counted(self, graph: dict[str, int]) -> None:
        found = one_graph(graph=graph).summary().conservation
        assert (found.median, found.n_excluded) == (None, 1)
        assert found.reason


class TestWarnings:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, "only 1 measured run"),
            ({}, "add up to 99.00% of its time"),
            ({"run": {"n_dropped": 3}}, "3 of 4 op records were dropped"),
            ({"run": {"n_threads": 9}, "metadata": {"device": {"n_cpus": 8}}}, "9 threads on 8 processors"),
            (
                {"run": {"n_threads": 9}, "metadata": {"device": {"n_cpus": 16, "n_cpus_allowed": 8}}},
                "9 threads on 8 processors",
            ),
            ({"run": {"n_records": 5}}, "4 of 5 op records that were recorded are not in the file"),
            ({"run": {"stop_reason": StopReason.ERROR}}, "were cancelled or failed"),
            ({"metadata": {"warnings": ["hot"]}}, "hot"),
        ],
    )
    def test_reasons_to_distrust(self, changes: dict[str, Any], expected: str) -> None:
        assert any(expected in line for line in one_graph(**changes).summary().warnings)

    def test_spread(self) -> None:
        builder = TraceBuilder()
        runs = [{"run": run, "n_prompt": 10, "prefill_ns": 100 + 20 * run} for run in range(4)]
        builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, runs))
        warnings = Trace.from_bytes(builder.finish()).summary().warnings
        # rates as 1 / 100, 120, 140 and 160: quartiles 0.0070 and 0.0088, median 0.0077
        line = "prefill varies by 24 % (IQR / median, 4 runs): end other work, or use --repeats 10"
        assert [each for each in warnings if each == line], warnings

    def test_figures_that_differ_together_take_one_line(self) -> None:
        builder = TraceBuilder()
        runs = [{"run": run, "n_prompt": 10, "n_output": 3, "prefill_ns": 100 + 20 * run} for run in range(6)]
        builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, runs))
        tokens = [
            {"run": run, "index": index, "start_ns": 10_000 * run + 100 * index, "duration_ns": 100 + 10 * run * index}
            for run in range(6)
            for index in range(3)
        ]
        builder.records(ChunkKind.TOKENS, rows_of(ChunkKind.TOKENS, tokens))
        (line,) = Trace.from_bytes(builder.finish()).summary().warnings
        assert re.fullmatch(
            r"prefill, decode, TPOT vary by \d+ to \d+ % \(IQR / median, 6 runs\): end other work, or use --repeats 12",
            line,
        )

    def test_none_for_a_good_trace(self, trace: Trace) -> None:
        assert trace.summary().warnings == ("the governor could not be read",)


class TestStatistics:
    def test_stat_leaves_out_what_is_not_finite(self) -> None:
        assert Stat.of([1.0, float("nan"), 3.0, float("inf")]) == Stat(2.0, 1.0, 2, (1.0, 3.0))
        assert Stat.of([]) is None

    @pytest.mark.parametrize("n", [5, 6, 11, 30])
    def test_interval_is_that_of_plain_resampling(self, n: int) -> None:
        # GIVEN ratios, and a bootstrap as the textbook has it
        random = np.random.default_rng(1)
        values = random.normal(1.0, 0.01, n)
        medians = np.median(random.choice(values, (40_000, n)), axis=1)
        low, high = np.percentile(medians, [2.5, 97.5])
        # THEN ours is the same up to the noise of the draws, and repeats itself
        found = median_interval(values)
        assert found is not None
        assert found == median_interval(values)
        assert np.allclose(found, (low, high), atol=0.004)
        assert found[0] <= np.median(values) <= found[1]

    def test_too_few_values_give_no_interval(self) -> None:
        assert median_interval(np.ones(4)) is None


class TestViews:
    def test_steps(self, trace: Trace) -> None:
        assert (n_steps(trace, Phase.PREFILL), n_steps(trace, Phase.DECODE)) == (3, 7)

    def test_timeline_is_one_decode_step(self, trace: Trace) -> None:
        found = token_timeline(trace)
        assert found is not None
        assert (found.phase, len(found.records), found.n_threads, found.span_ns) == ("decode", 11, 2, 64 * US)

    def test_layer_times(self, trace: Trace) -> None:
        found = layer_times(trace, Phase.DECODE)
        assert found is not None
        assert (found.modules, found.layers) == (("ffn", "attention"), (0, 1))
        assert found.ns.tolist() == [[21 * US, 5 * US], [11 * US, 11 * US]]

    def test_slowest_ops(self, trace: Trace) -> None:
        first = slowest_ops(trace)[0]
        assert first.name == "ffn_up-0"
        ops = [op for op in slowest_ops(trace, n=100) if op.name == first.name]
        assert {op.phase for op in ops} == {"prefill", "decode"}
        assert (sum(op.count for op in ops), sum(op.wall_ns for op in ops)) == (10, 210 * US)
        assert sum((op.bytes_per_s or 0) * op.wall_ns * 1e-9 for op in ops) == pytest.approx(22_000)
        assert sum((op.flop_per_s or 0) * op.wall_ns * 1e-9 for op in ops) == pytest.approx(80_000)


class TestGolden:
    """Files of released format versions stay readable, and mean the same."""

    @pytest.mark.parametrize("name", ["v1_0", "v1_1"])
    def test_file_reads_as_it_did(self, name: str) -> None:
        expected = json.loads((GOLDEN / f"{name}.json").read_text())
        trace = Trace.open(GOLDEN / f"{name}.melt")
        assert trace.damage == []
        assert trace.summary().to_json() == expected["summary"]
        for key, rows in expected["key_averages"].items():
            assert _known_then(trace.key_averages(key), rows) == rows
        assert trace.tokens.to_dicts() == expected["tokens"]
        assert _known_then(trace.ops.head(4), expected["first_ops"]) == expected["first_ops"]

    def test_builder_still_writes_that_file(self) -> None:
        assert toy_trace() == (GOLDEN / "v1_1.melt").read_bytes()


def _known_then(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the table's rows without the columns that came after `rows` were written."""
    return [{name: row[name] for name in then} for row, then in zip(table.to_dicts(), rows, strict=True)]


def test_indices_of_none_are_never_rows() -> None:
    # GIVEN a graph outside any step
    builder = TraceBuilder()
    builder.records(ChunkKind.GRAPHS, rows_of(ChunkKind.GRAPHS, [{"token": NONE, "topology": NONE}]))
    trace = Trace.from_bytes(builder.finish())
    assert trace.graphs[0].token is None
    trace.summary()


class Counted(np.ndarray[Any, Any]):
    """An array that counts over how many elements element-wise functions went."""

    n_elements = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [part.view(np.ndarray) if isinstance(part, Counted) else part for part in inputs]
        Counted.n_elements += max(np.size(part) for part in plain)
        return getattr(ufunc, method)(*plain, **options)


class TestSeries:
    def channels_and_samples(self, n_channels: int, n_samples: int) -> Trace:
        """Returns a trace with samples out of order, many at one time, some not finite, and names and numbers twice."""
        random = np.random.default_rng(3)
        names = [(n, b"s%d" % (n // 2 * 2)) for n in range(n_channels)] + [(1, b"again"), (n_channels, b"never")]
        channels = [{"channel": n, "site": site, "kind": b"load", "unit": b"W"} for n, site in names]
        samples = rows_of(ChunkKind.SAMPLES, [{}] * n_samples)
        samples["channel"] = random.integers(0, n_channels, n_samples)
        samples["time_ns"] = random.integers(-9, 9, n_samples)
        samples["value"] = random.choice([*range(50), np.nan, np.inf], n_samples)
        builder = TraceBuilder()
        builder.records(ChunkKind.CHANNELS, rows_of(ChunkKind.CHANNELS, channels))
        for part in np.array_split(samples, 3):
            builder.records(ChunkKind.SAMPLES, part)
        return Trace.from_bytes(builder.finish())

    def test_each_has_its_channels_readings_in_order_of_time(self) -> None:
        trace = self.channels_and_samples(6, 500)
        found = series_of(trace)
        assert list(found) == ["s0/load", "s2/load", "s4/load", "again/load", "never/load"]
        # THEN the first channel of a name counts, and readings of one time stay as they are in the file
        samples = trace.records(ChunkKind.SAMPLES).tolist()
        for name, number in (("s0", 0), ("s2", 2), ("s4", 4), ("again", 1), ("never", 6)):
            rows = [(time, value) for time, value, channel, _ in samples if channel == number and np.isfinite(value)]
            rows.sort(key=lambda row: row[0])
            series = found[f"{name}/load"]
            assert list(zip(series.time_ns.tolist(), series.values.tolist(), strict=True)) == rows
            assert (series.unit, series.values.dtype.str, series.time_ns.dtype.str) == ("W", "<f8", "<i8")

    def test_samples_are_not_looked_through_for_each_channel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trace, really = self.channels_and_samples(100, 2_000), Trace.records
        monkeypatch.setattr(Trace, "records", lambda self, kind: really(self, kind).view(Counted))
        monkeypatch.setattr(Counted, "n_elements", 0)
        assert len(series_of(trace)) == 52
        assert Counted.n_elements <= 10 * (2_000 + 102)

    def test_a_trace_without_samples_or_channels(self) -> None:
        assert series_of(Trace.from_bytes(TraceBuilder().finish())) == {}
        assert [len(each.values) for each in series_of(self.channels_and_samples(1, 0)).values()] == [0, 0, 0]
