"""What the HTML report says and draws: true in words, in both colour schemes, and at every width."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fakes.trace_builder import METADATA, US, TraceBuilder, definitions, toy_trace
from melt_core.analysis.views import SlowOp, slowest_ops
from melt_core.report._charts import Bar, bars, plain, strip, tick_label, ticks, x_axis
from melt_core.report.html import render
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind, ClockId


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_bytes(toy_trace())


@pytest.fixture(scope="module")
def page(trace: Trace) -> str:
    return render(trace)


def rebuilt(changed: dict[ChunkKind, np.ndarray], metadata: dict[str, object] | None = None) -> Trace:
    """Returns the toy trace with other records of some kinds."""
    whole, builder = Trace.from_bytes(toy_trace()), TraceBuilder()
    builder.metadata(metadata or METADATA)
    for kind in (
        ChunkKind.OP_DEFINITIONS,
        ChunkKind.RUNS,
        ChunkKind.PHASES,
        ChunkKind.TOKENS,
        ChunkKind.GRAPHS,
        ChunkKind.OPS,
    ):
        builder.records(kind, changed.get(kind, whole.records(kind)))
    return Trace.from_bytes(builder.finish())


def section_of(page: str, title: str) -> str:
    found = re.search(rf"<section><h2>{re.escape(title)}.*?</section>", page, re.DOTALL)
    assert found is not None, title
    return found.group()


class TestSlowestOps:
    def test_prefill_and_decode_are_apart(self, trace: Trace) -> None:
        found = {(op.name, op.phase): op for op in slowest_ops(trace)}
        # THEN of 10 executions 3 are prefill, and shares are of both together
        assert [found["ffn_up-0", phase].count for phase in ("prefill", "decode")] == [3, 7]
        assert found["ffn_up-0", "decode"].wall_ns == 7 * 21 * US
        assert found["ffn_up-0", "decode"].bytes_per_s == pytest.approx(2_200 / 21e-6)
        assert found["ffn_up-0", "decode"].flop_per_s == pytest.approx(8_000 / 21e-6)
        assert found["ffn_norm-1", "prefill"].bytes_per_s is None
        assert sum(op.share for op in slowest_ops(trace, n=100)) == pytest.approx(1.0)

    def test_the_longest_first_and_no_more_than_asked(self, trace: Trace) -> None:
        times = [op.wall_ns for op in slowest_ops(trace, n=4)]
        assert len(times) == 4
        assert times == sorted(times, reverse=True)

    def test_one_name_of_two_types_and_a_shape_per_phase(self) -> None:
        # GIVEN a rotation with the name of a product, and one op whose decode steps have another shape than its prefill
        defs = definitions()
        defs["op"][3] = defs["op"][1]
        defs["op_type"][3] = b"ROPE"
        wide = defs[2:3].copy()
        wide["shape"] = (1, 1, 8, 64)
        whole = Trace.from_bytes(toy_trace())
        ops = whole.records(ChunkKind.OPS).copy()
        is_prefill = whole.records(ChunkKind.TOKENS)["index"][ops["token"]] == 0
        ops["op"][(ops["op"] == 2) & is_prefill] = len(defs)
        trace = rebuilt({ChunkKind.OP_DEFINITIONS: np.concatenate([defs, wide]), ChunkKind.OPS: ops})
        found = {(op.name, op.op_type, op.phase): op for op in slowest_ops(trace)}
        # THEN each is a row of its own, with its own shape
        assert {key[1] for key in found if key[0] == "attn_q-0"} == {"MUL_MAT", "ROPE"}
        shapes = [found["ffn_up-0", "MUL_MAT", phase].shapes for phase in ("prefill", "decode")]
        assert shapes == [("8x64",), ("1x64",)]
        assert "<td>prefill</td><td>8x64</td>" in render(trace)

    def test_several_shapes_in_one_phase_are_said(self) -> None:
        # GIVEN an op that half of the decode steps run with another shape
        defs = definitions()
        other = defs[2:3].copy()
        other["shape"] = (1, 1, 2, 64)
        whole = Trace.from_bytes(toy_trace())
        ops = whole.records(ChunkKind.OPS).copy()
        ops["op"][(ops["op"] == 2) & (whole.records(ChunkKind.TOKENS)["index"][ops["token"]] == 2)] = len(defs)
        trace = rebuilt({ChunkKind.OP_DEFINITIONS: np.concatenate([defs, other]), ChunkKind.OPS: ops})
        op = next(op for op in slowest_ops(trace) if (op.name, op.phase) == ("ffn_up-0", "decode"))
        assert sorted(op.shapes) == ["1x64", "2x64"]
        assert f"{op.shapes[0]} and 1 more" in render(trace)

    def test_a_trace_without_ops(self) -> None:
        found: list[SlowOp] = slowest_ops(Trace.from_bytes(TraceBuilder().finish()))
        assert found == []


class TestTicks:
    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (0, 14.3, [0, 5, 10, 15]),
            (0, 8.1, [0, 2, 4, 6, 8, 10]),
            (0, 319e3, [0, 100e3, 200e3, 300e3, 400e3]),
            (41.2, 58.9, [40, 45, 50, 55, 60]),
            (-3, 1, [-3, -2, -1, 0, 1]),
            (41.20, 41.21, [41.2, 41.3]),  # finer ones would all be shown as 41.2
            (41.2, 41.2 + 1e-12, [41.2, 41.3]),
        ],
    )
    def test_round_numbers_around(self, low: float, high: float, expected: list[float]) -> None:
        assert ticks(low, high) == pytest.approx(expected)

    def test_inside_and_whole(self) -> None:
        assert ticks(2, 41, 4, inside=True) == [10, 20, 30, 40]
        assert ticks(2, 4, inside=True, least_step=1) == [2, 3, 4]

    @pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 1), (0, 5e-324), (-1e308, 1e308), (0, float("inf"))])
    def test_what_has_no_ticks_gets_its_ends(self, low: float, high: float) -> None:
        assert ticks(low, high) == [low, high]
        assert x_axis(low, high, str).startswith("<div")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("4.00 ms", "4 ms"),
            ("2.50 GHz", "2.5 GHz"),
            ("10.0 ms", "10 ms"),
            ("0 ns", "0"),
            ("1.00e+10 W", "1.00e+10 W"),
        ],
    )
    def test_labels(self, text: str, expected: str) -> None:
        assert tick_label(text) == expected

    def test_axes_of_the_report(self, page: str) -> None:
        latency = section_of(page, "Decode latency over tokens")
        labels = re.findall(r"<span[^>]*>([\d.]+(?: us)?)</span>", latency)
        assert labels == ["80 us", "60 us", "40 us", "20 us", "0", "2", "3"]  # 64 us, of the second and third token


class TestWords:
    def test_percentiles_have_one_definition(self) -> None:
        # GIVEN runs so unlike that the percentile of all latencies is none of the runs'
        whole = Trace.from_bytes(toy_trace())
        tokens = whole.records(ChunkKind.TOKENS).copy()
        tokens["duration_ns"] *= 1 + tokens["run"]
        trace = rebuilt({ChunkKind.TOKENS: tokens})
        summary = trace.summary()
        assert summary.itl_p50_ms is not None
        assert summary.itl_p95_ms is not None
        # THEN the chart shows what the cards show
        latency = section_of(render(trace), "Decode latency over tokens")
        shown = [float(text) for text in re.findall(r"p(?:50|95) ([\d.]+) us</span>", latency)]
        assert shown == pytest.approx([1e3 * summary.itl_p50_ms.median, 1e3 * summary.itl_p95_ms.median], rel=1e-2)
        assert "median over the runs" in latency

    def test_nothing_depends_on_light_or_dark(self, page: str) -> None:
        assert "darker" not in page.lower()
        assert "The stronger the colour" in page

    def test_ends_of_lines_are_seen(self) -> None:
        metadata = {**METADATA, "config": {"prompt": "one\ntwo\r\nthree"}}
        assert "one\u21b5two\u21b5three" in render(rebuilt({}, metadata))
        assert plain("a\x07\n") == "a?\u21b5"

    def test_sections_of_one_kind_are_labelled(self, page: str) -> None:
        # GIVEN the toy trace: its clock is simulated, so no time in it was measured
        for title in ("Can these numbers be trusted?", "Where the time goes", "Layer by layer", "One token, thread by"):
            assert '<span class="kind">simulated</span></h2>' in section_of(page, title), title
        assert '<span class="kind">derived</span></h2>' in section_of(page, "Live activations")
        # WHEN the clock is a real one
        data = bytearray(toy_trace())
        data[16:20] = struct.pack("<I", ClockId.TSC)
        data[60:64] = struct.pack("<I", zlib.crc32(data[:60]))
        page = render(Trace.from_bytes(bytes(data)))
        # THEN the labels are those of docs/measuring_honestly.md
        assert '<span class="kind">derived</span></h2>' in section_of(page, "Where the time goes")
        assert '<span class="kind">measured</span></h2>' in section_of(page, "One token, thread by")
        assert '<span class="kind">simulated' not in page

    def test_tpot_has_a_card(self, page: str) -> None:
        assert "Time per output token (TPOT)" in page


class TestBars:
    def test_the_width_is_the_share(self) -> None:
        drawn = bars(
            [Bar("a", 0.698, 15.4e6, 0.1, "red"), Bar("b", 0.232, 5.1e6, 0, "red"), Bar("c", 2.0, 1, 0, "red")]
        )
        assert re.findall(r'class="bar" style="width:([\d.]+)%', drawn) == ["69.80", "23.20", "100.00"]

    def test_what_is_there_is_not_0(self) -> None:
        assert "&lt;0.1 %" in bars([Bar("embedding", 0.0004, 9.9e3, 0, "red")])
        assert "0.0 %" in bars([Bar("none", 0.0, 0, 0, "red")])

    def test_times_stay_on_a_phone(self, page: str) -> None:
        narrow = page[page.index("@media (max-width") : page.index("@media print")]
        assert "display: none" not in narrow
        assert "ellipsis" not in page

    def test_dots_have_a_scale(self) -> None:
        drawn = strip([25.2, 19.1, 25.7], lambda value: f"{value} ms")
        assert '<div class="ends"><span>19.1 ms</span><span>25.7 ms</span></div>' in drawn
        assert re.findall(r'cx="([\d.]+)%"', drawn) == ["92.4", "0.0", "100.0"]
        assert 'cx="50.0%"' in strip([3.0, 3.0], str)


class TestComparison:
    def test_every_row_has_room_for_the_ratio(self, trace: Trace) -> None:
        figures = section_of(render([trace, trace]), "Key figures")
        cells = re.findall(r'<td class="num">.*?</td>', figures)
        assert len(cells) == 2 * 10
        assert all('class="delta"' in cell for cell in cells)
        assert "below each" not in figures

    def test_files_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        for folder in ("host", "phone"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "demo.melt").write_bytes(toy_trace())
        host, phone = (Trace.open(tmp_path / folder / "demo.melt") for folder in ("host", "phone"))
        page = render([host, phone])
        assert "<title>host/demo, phone/demo - melt report</title>" in page
        assert '<div class="kicker">phone/demo</div>' in page
        assert "<title>1: demo, 2: demo - melt report</title>" in render([host, host])
        other = tmp_path / "other.melt"
        other.write_bytes(toy_trace())
        assert "<title>demo, other - melt report</title>" in render([host, Trace.open(other)])
