"""Roofline and MBU of a trace whose figures are worked out by hand in the comments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.ceilings import FakeCeilings
from fakes.trace_builder import TraceBuilder, rows_of, toy_trace
from melt_core.analysis.mbu import mbu_of
from melt_core.analysis.roofline import BY, PHASES, RooflineRow, roofline
from melt_core.analysis.streamed import streamed_bytes
from melt_core.cli import roofline as command
from melt_core.cli.main import main
from melt_core.errors import InvalidArgumentError
from melt_core.report import report
from melt_core.report._roofline_chart import standalone
from melt_core.report.roofline_text import format_roofline, mbu_warnings
from melt_core.trace import Trace
from melt_core.trace.format import OP_DEFINITION, RUN_WARMUP, ChunkKind, Phase, StopReason

#: Two threads: 20 GB/s from up to 2000 bytes, 2 GB/s beyond; f32 2 GFLOP/s, int8 8 GFLOP/s.
CEILINGS = FakeCeilings()

Q4_0 = "q4_0"
X = ("f32", (1, 1, 1, 64))
#: op, op_type, module, weight, sources, bytes_read, bytes_written, flops, wall in ns of one execution
DECODE: list[tuple[Any, ...]] = [
    # a weight of 64 rows of 2 blocks of 18 bytes = 2304, and 64 f32
    ("up", "MUL_MAT", "ffn", "up.weight", ((Q4_0, (1, 1, 64, 64)), X), 2560, 256, 8192, 2816),
    # x and the weight of the second node: 256 + 256
    ("norm", "RMS_NORM+MUL", "norm", "norm.weight", (X,), 512, 256, 256, 256),
    # 4 query heads of 16, 2 heads of K and V, 16 positions: K and V 1024 bytes each, mask 32
    (
        "attn", "FLASH_ATTN_EXT", "attention", "",
        (("f32", (1, 4, 1, 16)), ("f16", (1, 2, 16, 16)), ("f16", (1, 2, 16, 16))), 2336, 256, 4096, 3040,
    ),
    ("odd", "RWKV_WKV7", "ssm", "", (X,), np.nan, np.nan, np.nan, 1000),
    ("none", "CPY", "ssm", "", (("f32", (1, 1, 0, 64)),), 0, 0, 0, 100),
]  # fmt: skip
PREFILL: list[tuple[Any, ...]] = [
    ("up", "MUL_MAT", "ffn", "up.weight", ((Q4_0, (1, 1, 64, 64)), ("f32", (1, 1, 8, 64))), 4352, 2048, 65536, 4096),
]
N_PROMPT = 8


def definition_rows(specs: list[tuple[Any, ...]], topology: int) -> Any:
    made = np.zeros(len(specs), OP_DEFINITION)
    for node, (row, spec) in enumerate(zip(made, specs, strict=True)):
        row["op"], row["op_type"], row["module"], row["weight"] = spec[:4]
        for at, (dtype, shape) in enumerate(spec[4]):
            row["src_dtype"][at], row["src_shape"][at] = dtype, shape
        row["bytes_read"], row["bytes_written"], row["flops"] = spec[5:8]
        row["topology"], row["node"], row["n_fused"] = topology, node, 1 + spec[1].count("+")
        row["buffer"], row["backend"], row["dtype"] = "CPU", "CPU", "f32"
    return made


def made_trace(decode: list[tuple[Any, ...]] = DECODE, *, n_steps: int = 3, cpu: str = "Imaginary CPU") -> Trace:
    """Returns a warm-up run and a measured one, each a prefill of 8 tokens and two decode steps, 10 us a step."""
    builder = TraceBuilder()
    builder.metadata({"device": {"cpu_model": cpu}, "model": {"name": "toy"}})
    definitions = np.concatenate([definition_rows(PREFILL, 0), definition_rows(decode, 1)])
    tokens: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []
    ops: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for run in (0, 1):
        flags = RUN_WARMUP if run == 0 else 0
        row = {"run": run, "flags": flags, "stop_reason": StopReason.LIMIT, "n_prompt": N_PROMPT, "n_output": n_steps}
        runs.append({**row, "n_threads": 2, "prefill_ns": 4096})
        for index in range(n_steps):
            start_ns, token = 10_000 * len(tokens), len(tokens)
            phase = Phase.DECODE if index else Phase.PREFILL
            times = {"start_ns": start_ns, "duration_ns": 10_000}
            tokens.append({"run": run, "index": index, "phase": phase, "n_tokens": 1 if index else N_PROMPT, **times})
            specs, first = (decode, len(PREFILL)) if index else (PREFILL, 0)
            graphs.append({"topology": int(index > 0), "token": token, "n_threads": 2, "n_groups": len(specs), **times})
            for at, spec in enumerate(specs):
                for thread in (0, 1):
                    record = {"op": first + at, "graph": token, "token": token, "thread": thread, "start_ns": start_ns}
                    ops.append({**record, "compute_ns": spec[8]})
    builder.records(ChunkKind.OP_DEFINITIONS, definitions)
    for kind, rows in (
        (ChunkKind.RUNS, runs), (ChunkKind.TOKENS, tokens), (ChunkKind.GRAPHS, graphs), (ChunkKind.OPS, ops)
    ):  # fmt: skip
        builder.records(kind, rows_of(kind, rows))
    return Trace.from_bytes(builder.finish())


def rows_by_key(trace: Trace, **options: Any) -> dict[str, RooflineRow]:
    return {row.key: row for row in roofline(trace, CEILINGS, **options).rows}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return made_trace()


class TestRows:
    def test_a_weight_comes_from_memory_although_it_alone_would_fit_the_cache(self, trace: Trace) -> None:
        row = rows_by_key(trace)["MUL_MAT"]
        assert (row.count, row.wall_ns) == (2, 2 * 2816)
        assert row.bytes == 2 * (2560 + 256)
        assert (row.bytes_per_s, row.flop_per_s) == (1e9, pytest.approx(8192 / 2816 * 1e9))
        assert row.intensity_flop_per_byte == pytest.approx(8192 / 2816)
        # the step streams 2304 + 256 + 2048 bytes: beyond the cache, so 2 GB/s: 1408 ns; int8: 8192 / 8e9 = 1024 ns
        assert (row.bound, row.ceiling_ratio) == ("bandwidth", pytest.approx(0.5))
        assert (row.working_set_bytes, row.family) == (4608, "int8_avx2")
        assert row.ceiling_bytes_per_s == pytest.approx(2e9)
        assert row.ceiling_flop_per_s == pytest.approx(8e9)

    def test_activations_come_from_the_cache_that_holds_them(self, trace: Trace) -> None:
        # 768 bytes, 256 of them weight, at 20 GB/s: 38.4 ns; 256 FLOPs at 2 GFLOP/s: 128 ns
        row = rows_by_key(trace)["RMS_NORM+MUL"]
        assert (row.bound, row.ceiling_ratio) == ("compute", pytest.approx(0.5))
        assert (row.working_set_bytes, row.family) == (768, "f32_avx2")
        assert row.ceiling_bytes_per_s == pytest.approx(20e9)

    def test_attention_counts_the_positions_that_a_decode_step_attends_to(self, trace: Trace) -> None:
        # steps 1 and 2 attend to 9 and 10 of the 16 positions: 7/16 and 6/16 of K and V are not touched
        row = rows_by_key(trace)["FLASH_ATTN_EXT"]
        assert row.bytes == 2 * (2336 + 256) - 13 / 16 * 2048
        assert row.flops == (2 - 13 / 16) * 4096
        # 3520 / 2e9 = 1760 ns; K is f16, without a family of its own multiplied as f32: 4864 / 2e9 = 2432 ns of 6080
        assert (row.bound, row.family) == ("compute", "f32_avx2")
        assert row.ceiling_ratio == pytest.approx(0.4)

    def test_what_has_no_formula_is_listed_and_not_guessed(self, trace: Trace) -> None:
        found = roofline(trace, CEILINGS)
        assert found.no_formula == ("RWKV_WKV7",)
        row = rows_by_key(trace)["RWKV_WKV7"]
        assert (row.bytes, row.flop_per_s, row.bound, row.ceiling_ratio) == (None, None, None, None)
        assert (row.reason, row.unknown_ratio) == ("no formula for this op", 1.0)
        assert rows_by_key(trace)["CPY"].reason == "it reads and writes nothing"

    def test_a_key_with_known_and_unknown_ops_has_the_rates_of_the_known(self) -> None:
        row = rows_by_key(made_trace([DECODE[0], (*DECODE[3][:2], "ffn", *DECODE[3][3:])]), by="module")["ffn"]
        assert row.wall_ns == 2 * (2816 + 1000)
        assert row.bytes_per_s == 1e9
        assert row.unknown_ratio == pytest.approx(1000 / 3816)
        assert row.ceiling_ratio == pytest.approx(0.5)

    def test_by_name_and_module(self, trace: Trace) -> None:
        assert list(rows_by_key(trace, by="name")) == ["attn", "up", "odd", "norm", "none"]
        assert set(rows_by_key(trace, by="module")) == {"ffn", "norm", "attention", "ssm"}

    def test_bad_arguments(self, trace: Trace) -> None:
        with pytest.raises(InvalidArgumentError, match="choose one of op_type, name, module"):
            roofline(trace, CEILINGS, by="colour")
        with pytest.raises(InvalidArgumentError, match="choose one of prefill, decode"):
            roofline(trace, CEILINGS, phase="tokenize")


class TestPhase:
    def test_shares_of_decode_time(self, trace: Trace) -> None:
        found = roofline(trace, CEILINGS)
        total_ns = 2816 + 256 + 3040 + 1000 + 100
        assert found.wall_ns == 2 * total_ns
        assert found.bandwidth_share == pytest.approx(2816 / total_ns)
        assert found.compute_share == pytest.approx((256 + 3040) / total_ns)
        assert found.unknown_share == pytest.approx(1100 / total_ns)
        assert found.ceiling_ratio == pytest.approx((1408 + 128 + 1216) / (2816 + 256 + 3040))
        assert found.bandwidths == ((4608, 2e9), (768, 20e9))
        assert found.rates == (("f32_avx2", 2e9), ("int8_avx2", 8e9))
        assert found.warnings == ()

    def test_more_than_the_ceiling_is_said_with_a_reason(self, trace: Trace) -> None:
        # 65536 FLOPs in 4096 ns are 16 GFLOP/s, twice the ceiling
        found = roofline(trace, CEILINGS, phase="prefill")
        assert found.compute_share == 1.0
        assert found.rows[0].ceiling_ratio == pytest.approx(2.0)
        assert found.warnings[0].startswith(
            "prefill: 1 row of 1 (MUL_MAT) at more than 105% of the ceiling: either the ceiling was measured too low "
            "(melt doctor --ceilings --remeasure measures again), or the kernel used faster instructions"
        )

    def test_rows_over_their_ceiling_are_counted_by_reason_and_named_where_shown(self) -> None:
        # GIVEN ten products, each twice as slow as the one before: 2816 bytes at 20 GB/s take 140.8 ns, and eight less
        fast = [(f"op{n}", "MUL_MAT", "ffn", "w", *DECODE[0][4:8], 1 << n) for n in range(10)]
        found = roofline(made_trace(fast), FakeCeilings(memory_bandwidth=1e10, rates={"int8_avx2": 1e15}), by="name")
        over = [row.key for row in found.rows if row.warning]
        assert over == [f"op{n}" for n in range(7, -1, -1)]
        # THEN they are one warning, and it names none that is not in the table
        (line,) = found.row_warnings(4)
        assert line.startswith("decode: 8 rows of 10 (op7, op6) at more than 105% of the ceiling: either ")
        assert line.endswith("or part of the weights stayed in a cache between two steps")
        (line,) = found.row_warnings(2)
        assert line.startswith("decode: 8 rows of 10 at more than")
        (line,) = found.row_warnings(None)
        assert "(op7, op6, op5, op4, op3, op2, op1, op0)" in line
        text = format_roofline([found], mbu_of(made_trace(fast), CEILINGS), "m", max_rows=4)
        assert text.count("warning: decode:") == 1
        assert "op5" not in text

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            (0, "part of the weights stayed in a cache"),
            (1, "the kernel used faster instructions"),
            (2, "K and V came from a cache"),
        ],
    )
    def test_each_kind_of_op_has_its_reason(self, spec: int, reason: str) -> None:
        fast = [(*DECODE[spec][:8], 10)]
        ceilings = FakeCeilings(rates={"f32_avx2": 1e9 if spec == 1 else 1e15, "int8_avx2": 1e15})
        (row,) = roofline(made_trace(fast), ceilings).rows
        assert reason in (row.warning or "")

    def test_another_machine_is_warned_of(self) -> None:
        found = roofline(made_trace(cpu="Other CPU"), CEILINGS)
        assert found.warnings == (
            "the trace is of Other CPU, the ceilings are of: Imaginary CPU, measured 2026-01-02",
        )  # fmt: skip

    def test_amx_is_only_for_weights_in_its_buffer(self) -> None:
        trace = made_trace()
        data = trace.records(ChunkKind.OP_DEFINITIONS).copy()
        data["buffer"] = b"AMX"
        trace._joined[ChunkKind.OP_DEFINITIONS] = data
        trace._contents.records[ChunkKind.OP_DEFINITIONS] = (data,)
        assert rows_by_key(trace)["MUL_MAT"].family == "int8_amx"

    def test_without_a_ceiling_there_is_a_reason(self, trace: Trace) -> None:
        found = roofline(trace, FakeCeilings(rates={"int8_avx2": 4e9}))
        row = next(row for row in found.rows if row.key == "RMS_NORM+MUL")
        assert (row.bound, row.ceiling_ratio) == (None, None)
        assert "no ceiling was measured" in (row.reason or "")
        assert row.bytes_per_s == 3e9


class TestMbu:
    def test_weights_and_attended_positions_per_token(self, trace: Trace) -> None:
        mbu = mbu_of(trace, CEILINGS)
        assert mbu.weight_bytes == 2304 + 256
        assert mbu.kv_bytes == (2 - 13 / 16) * 2048 / 2
        assert mbu.decode_tok_s == 100_000
        assert mbu.bandwidth_bytes_per_s == 2e9
        assert mbu.ratio == pytest.approx((2560 + 1216) * 1e5 / 2e9)
        assert mbu.reason is None

    def test_a_recurrent_state_is_read_and_written(self) -> None:
        # a state of 16 x 8 f32, of 2 that are kept
        sources = (("f32", (2, 8, 1, 16)), ("f32", (1, 1, 8, 1)), ("f32", (1, 1, 1, 8)))
        scan = ("scan", "SSM_SCAN", "ssm", "a.weight", sources, 2000, 544, 896, 100)
        assert mbu_of(made_trace([DECODE[0], scan]), CEILINGS).kv_bytes == 2 * 512

    @pytest.mark.parametrize(
        ("trace", "reason"),
        [
            (lambda: made_trace(n_steps=1), "no op of a decode step was recorded"),
            (lambda: made_trace([DECODE[3]]), "no op of the decode steps names a weight"),
            (
                lambda: made_trace([("x", "CONCAT", "ffn", "x.weight", (X,), 1, 1, 0, 1)]),
                "the weight bytes of CONCAT cannot be told",
            ),
            (
                lambda: made_trace([("kq", "MUL_MAT", "attention", "", (X, X), 1, 1, 1, 1)]),
                "attention ran as plain matrix products",
            ),
            (
                lambda: made_trace(
                    [DECODE[0], ("a", "FLASH_ATTN_EXT", "attention", "", (X, ("new", (1, 2, 16, 16)), X), 1, 1, 1, 1)]
                ),
                "the KV cache has a type",
            ),
        ],
    )
    def test_what_cannot_be_known_has_its_reason(self, trace: Any, reason: str) -> None:
        mbu = mbu_of(trace(), CEILINGS)
        assert mbu.ratio is None
        assert reason in (mbu.reason or "")

    def test_streamed_bytes_of_each_kind(self) -> None:
        experts = ("e", "MUL_MAT_ID", "ffn", "e.weight",
                   (("q8_0", (1, 8, 64, 32)), ("f32", (1, 1, 1, 32)), ("i32", (1, 1, 1, 2))),
                   2 * 64 * 34 + 128 + 8, 512, 8192, 1)  # fmt: skip
        lookup = ("l", "GET_ROWS", "embedding", "t.weight",
                  (("f16", (1, 1, 99, 64)), ("i32", (1, 1, 1, 1))), 132, 256, 0, 1)  # fmt: skip
        bias = ("b", "ADD", "ffn", "b.bias", (X, X), 512, 256, 64, 1)
        found = streamed_bytes(definition_rows([experts, lookup, bias], 0))
        assert found.weight.tolist() == [2 * 64 * 34, 128, 256]
        assert set(found.step) == {2 * 64 * 34 + 128 + 256}


class TestOutput:
    def test_text_fits_the_terminal_and_has_the_claim(self, trace: Trace) -> None:
        for by in BY:
            found = [roofline(trace, CEILINGS, by=by, phase=phase) for phase in PHASES]
            text = format_roofline(found, mbu_of(trace, CEILINGS), CEILINGS.describe())
            assert max(map(len, text.splitlines())) <= 80
        flat = " ".join(text.split())
        assert "decode: 39.0 % of op time bandwidth-bound, 45.7 % compute-bound, 15.3 % not placed" in flat
        assert "no formula: RWKV_WKV7" in flat
        assert "MBU of decode: 18.9 % = (2.56 kB weights + 1.22 kB KV) x 100000 tok/s / 2.00 GB/s" in flat
        assert "200.0 %!" in flat

    def test_each_table_has_its_phase_above_it_and_whole_counts(self, trace: Trace) -> None:
        found = [roofline(trace, CEILINGS, phase=phase) for phase in PHASES]
        lines = format_roofline(found, mbu_of(trace, CEILINGS), CEILINGS.describe()).splitlines()
        for phase in PHASES:
            heading = lines[lines.index(phase) + 1].split()
            assert heading[:3] == ["op_type", "count", "wall"]
        many = dataclasses.replace(found[1], rows=(dataclasses.replace(found[1].rows[0], count=25953),))
        text = format_roofline([many], mbu_of(trace, CEILINGS), CEILINGS.describe())
        assert "25953" in text.splitlines()[4].split()

    def test_an_impossible_mbu_and_doubtful_ceilings_are_warned_of(self, trace: Trace) -> None:
        class Doubtful(FakeCeilings):
            def doubts(self) -> tuple[str, ...]:
                return ("ceilings disturbed: 7 of 28",)

        low = Doubtful(memory_bandwidth=1e8)  # 377.6 MB/s used: 188.8 % of 200 MB/s
        found = [roofline(trace, low, phase=phase) for phase in PHASES]
        text = format_roofline(found, mbu_of(trace, low), low.describe())
        flat = " ".join(text.split())
        assert flat.count("warning: ceilings disturbed: 7 of 28") == 1
        assert "warning: MBU of decode is more than 105%: either the ceiling was measured too low" in flat
        assert max(map(len, text.splitlines())) <= 80
        assert mbu_warnings(mbu_of(trace, CEILINGS)) == []

    def test_svg_is_well_formed_and_escaped(self, trace: Trace) -> None:
        import xml.etree.ElementTree as ElementTree

        found = [roofline(trace, CEILINGS, phase=phase) for phase in PHASES]
        root = ElementTree.fromstring(standalone(found, 'a <b> & "c"'))
        name = "{http://www.w3.org/2000/svg}"
        titles = [element.text or "" for element in root.iter(f"{name}title")]
        assert sum("of op time" in title for title in titles) == 4  # RWKV and CPY have no place
        assert 'a <b> & "c"' in [element.text for element in root.iter(f"{name}text")]

    def test_report_has_the_section_only_with_ceilings(self, trace: Trace, tmp_path: Path) -> None:
        report(trace, tmp_path / "with.html", ceilings=CEILINGS)
        report(trace, tmp_path / "without.html")
        assert "How near to the machine" in (tmp_path / "with.html").read_text()
        assert "How near to the machine" not in (tmp_path / "without.html").read_text()

    def test_a_trace_with_gaps_and_an_empty_one_do_not_fail(self) -> None:
        empty = Trace.from_bytes(TraceBuilder().finish())
        for each in (empty, Trace.from_bytes(toy_trace())):
            for phase in PHASES:
                roofline(each, CEILINGS, phase=phase)
            assert mbu_of(each, CEILINGS).ratio is None or mbu_of(each, CEILINGS).reason is None


class TestCommand:
    @pytest.fixture
    def path(self, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(command, "required_ceilings", lambda: CEILINGS)
        trace.save(tmp_path / "t.melt")
        return str(tmp_path / "t.melt")

    def test_lists_agree_with_what_they_stand_for(self) -> None:
        assert (command._BY, command._PHASES) == (BY, PHASES)

    def test_json(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["roofline", path, "--json", "--phase", "decode", "--top", "2"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["mbu"]["ratio"] == pytest.approx(0.1888)
        assert list(found["phases"]) == ["decode"]
        assert [row["key"] for row in found["phases"]["decode"]["rows"]] == ["FLASH_ATTN_EXT", "MUL_MAT"]
        assert (found["phases"]["decode"]["warnings"], found["mbu"]["warnings"]) == ([], [])
        assert found["phases"]["decode"]["bandwidths"][0] == {"working_set_bytes": 4608, "bytes_per_s": 2e9}

    def test_table_and_svg(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["roofline", path, "--by", "name", "-o", str(tmp_path / "r.svg")]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
        assert (tmp_path / "r.svg").read_text().startswith("<svg ")

    def test_no_ceilings_yet(
        self, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "empty"))
        trace.save(tmp_path / "t.melt")
        assert main(["roofline", str(tmp_path / "t.melt")]) == 1
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert "no ceilings measured on this machine yet: measure them with `melt doctor --ceilings`" in captured.err

    @pytest.mark.parametrize(
        ("arguments", "code", "expected"),
        [
            (["--top", "0"], 2, "at least one row"),
            (["--phase", "load"], 2, "invalid choice: 'load'"),
            (["-o", "/none/r.svg"], 1, "cannot write /none/r.svg"),
        ],
    )
    def test_mistakes_take_one_line(
        self, path: str, arguments: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["roofline", path, *arguments]) == code
        captured = capsys.readouterr()
        assert expected in captured.err
        assert captured.err.count("\n") == 1

    def test_a_trace_without_ops(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.melt").write_bytes(TraceBuilder().finish())
        assert main(["roofline", str(tmp_path / "empty.melt")]) == 1
        assert "holds no ops" in capsys.readouterr().err
