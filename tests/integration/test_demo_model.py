"""Profiling SmolLM2-135M in process: is what was recorded whole, attributed and right?"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt

from .demo_runs import N_GROUPS, N_LAYERS, N_OUTPUT, PROMPT

N_EMBD, N_FF, N_HEADS, N_KV_HEADS, HEAD = 576, 1536, 9, 3, 64
N_VOCAB = 49152
Q4_1, Q8_0, F16, F32 = 20 / 32, 34 / 32, 2, 4  # bytes of one value
Q8_0_AMX = 38 / 32  # ggml's AMX layout keeps a 32-bit sum beside each block of 32
ROUNDING_NS = 2  # start and duration are rounded on their own
N_KV_PADDED = 256  # llama.cpp attends over a multiple of 256 cells


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.alone)], ids=["1 thread", "2 threads"])
def trace(request: pytest.FixtureRequest, demo: Path) -> melt.Trace:
    """One run with ops recorded; opened after the model was closed."""
    with melt.load(demo, n_threads=request.param, n_ctx=512) as loaded:
        profiler = melt.profile(loaded, metadata={"experiment": {"name": "demo", "value": 7}})
        with profiler:
            profiler.run(PROMPT, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    return profiler.trace


def definitions(trace: melt.Trace, topology: int) -> list[dict[str, Any]]:
    return [row for row in trace.op_definitions.to_dicts() if row["topology"] == topology]


def decode_op(trace: melt.Trace, op: str, op_type: str) -> dict[str, Any]:
    (found,) = [row for row in definitions(trace, 1) if row["op"] == op and row["op_type"] == op_type]
    return found


# Whole


def test_every_executed_group_is_recorded(trace: melt.Trace) -> None:
    assert trace.complete
    assert trace.warnings == []
    (run,) = trace.runs.to_dicts()
    assert (run["n_output"], run["n_graphs"], run["n_dropped"]) == (N_OUTPUT, N_OUTPUT, 0)
    assert run["n_groups"] == N_OUTPUT * N_GROUPS
    assert run["n_records"] == run["n_groups"] * run["n_threads"]
    for graph in trace.graphs.to_dicts():
        assert (graph["n_groups"], graph["n_dropped"], graph["n_threads"]) == (N_GROUPS, 0, run["n_threads"])
        assert not graph["aborted"]


def test_every_node_belongs_to_one_group(trace: melt.Trace) -> None:
    for topology in (0, 1):
        rows = definitions(trace, topology)
        assert len(rows) == N_GROUPS
        nodes = [row["node"] for row in rows]
        assert nodes == sorted(set(nodes))
        # The groups do not overlap; between them lie nodes that do nothing, such as views.
        for row, following in zip(rows, nodes[1:], strict=False):
            assert row["node"] + row["n_fused"] <= following


def test_each_definition_is_recorded_as_often_as_its_graph_ran(trace: melt.Trace) -> None:
    ops = [row for row in trace.ops.to_dicts() if row["op_type"] not in ("TOKENIZE", "SAMPLE")]
    records = Counter((row["run"], row["token"], row["thread"]) for row in ops)
    (run,) = trace.runs.to_dicts()
    assert set(records.values()) == {N_GROUPS}
    assert len(records) == N_OUTPUT * run["n_threads"]


def test_op_times_add_up_to_graph_times(trace: melt.Trace) -> None:
    conservation = trace.summary().conservation
    assert conservation.n_graphs == N_OUTPUT
    assert conservation.median is not None
    assert 0.97 < conservation.median < 1.0001


def test_ops_of_a_thread_follow_each_other(trace: melt.Trace) -> None:
    last_end: dict[int, int] = {}
    for row in trace.ops.to_dicts():
        if row["op_type"] in ("TOKENIZE", "SAMPLE"):
            continue
        assert row["compute_ns"] >= 0
        assert row["wait_ns"] >= 0
        assert row["start_ns"] >= last_end.get(row["thread"], 0) - ROUNDING_NS
        last_end[row["thread"]] = row["start_ns"] + row["compute_ns"] + row["wait_ns"]


def test_tokens_phases_and_prompt_tell_the_same_story(trace: melt.Trace) -> None:
    (run,) = trace.runs.to_dicts()
    tokens = trace.tokens.to_dicts()
    assert [row["phase"] for row in tokens] == ["prefill"] + ["decode"] * (N_OUTPUT - 1)
    assert [row["n_tokens"] for row in tokens] == [run["n_prompt"]] + [1] * (N_OUTPUT - 1)
    assert len(trace.prompts) == run["n_prompt"]
    phases = [row["phase"] for row in trace.phases.to_dicts()]
    assert phases[:1] == ["load"]
    assert set(phases) >= {"load", "tokenize", "prefill", "decode"}
    for earlier, later in itertools.pairwise(tokens):
        assert abs(later["start_ns"] - earlier["start_ns"] - earlier["duration_ns"]) <= ROUNDING_NS


# Attributed


def test_layers_are_numbered_and_alike(trace: melt.Trace) -> None:
    layers = Counter(row["layer"] for row in definitions(trace, 1))
    assert layers.pop(None) == 5  # embedding, two lookups of the last token, norm and output
    assert layers == dict.fromkeys(range(N_LAYERS), 17)
    shown = {row["key"] for row in trace.key_averages("layer").to_dicts()}
    assert shown == {None, *range(N_LAYERS)}


def test_modules_are_those_of_a_llama(trace: melt.Trace) -> None:
    modules = Counter(row["module"] for row in definitions(trace, 1))
    assert modules == {
        "attention": 5 * N_LAYERS,
        "ffn": 4 * N_LAYERS,
        "norm": 2 * N_LAYERS + 1,
        "rope": 2 * N_LAYERS,
        "kv-cache": 2 * N_LAYERS,
        "residual": 2 * N_LAYERS,
        "lm_head": 3,
        "embedding": 1,
    }
    shares = {row["key"]: row["share"] for row in trace.key_averages("module").to_dicts()}
    assert shares.get("other", 0.0) <= 0.02


def test_residual_additions_are_not_feed_forward(trace: melt.Trace) -> None:
    for topology in (0, 1):
        additions = [row for row in definitions(trace, topology) if row["op_type"] == "ADD"]
        assert len(additions) == 2 * N_LAYERS
        assert {row["module"] for row in additions} == {"residual"}


def test_a_norm_and_its_scale_run_as_one(trace: melt.Trace) -> None:
    fused = [row for row in definitions(trace, 1) if row["n_fused"] > 1]
    assert {(row["op_type"], row["n_fused"], row["module"]) for row in fused} == {("RMS_NORM+MUL", 2, "norm")}
    assert len(fused) == 2 * N_LAYERS + 1


# Right


@pytest.mark.parametrize(
    ("op", "n_out", "n_in", "weight", "weight_bytes"),
    [
        ("Qcur-0", N_EMBD, N_EMBD, "blk.0.attn_q.weight", Q4_1),
        ("Kcur-0", N_KV_HEADS * HEAD, N_EMBD, "blk.0.attn_k.weight", Q4_1),
        ("ffn_up-0", N_FF, N_EMBD, "blk.0.ffn_up.weight", Q4_1),
        ("ffn_out-29", N_EMBD, N_FF, "blk.29.ffn_down.weight", Q4_1),
        ("result_output", N_VOCAB, N_EMBD, "token_embd.weight", Q8_0),
    ],
)
def test_matrix_products_cost_what_their_shapes_say(
    trace: melt.Trace, op: str, n_out: int, n_in: int, weight: str, weight_bytes: float
) -> None:
    row = decode_op(trace, op, "MUL_MAT")
    assert (row["weight"], row["shape"]) == (weight, f"1x{n_out}")
    assert row["src_shape"].split()[:2] == [f"{n_out}x{n_in}", f"1x{n_in}"]
    assert row["flops"] == 2 * n_out * n_in
    if row["buffer"] == "AMX" and weight_bytes == Q8_0:
        weight_bytes = Q8_0_AMX
    assert row["bytes_read"] == n_out * n_in * weight_bytes + n_in * F32
    assert row["bytes_written"] == n_out * F32


def test_attention_reads_the_heads_that_the_cache_has(trace: melt.Trace) -> None:
    (row, *_) = [row for row in definitions(trace, 1) if row["op_type"] == "FLASH_ATTN_EXT"]
    assert row["src_shape"].split() == [
        f"{N_HEADS}x1x{HEAD}", f"{N_KV_HEADS}x{N_KV_PADDED}x{HEAD}", f"{N_KV_HEADS}x{N_KV_PADDED}x{HEAD}",
    ]  # fmt: skip
    cache = 2 * N_KV_HEADS * N_KV_PADDED * HEAD * F16
    assert row["bytes_read"] == N_HEADS * HEAD * F32 + cache + N_KV_PADDED * F16  # Q; K and V; mask
    assert row["bytes_written"] == N_HEADS * HEAD * F32
    assert row["flops"] == 4 * N_HEADS * N_KV_PADDED * HEAD


def test_lookups_and_stores_touch_their_rows_only(trace: melt.Trace) -> None:
    lookup = decode_op(trace, "embd", "GET_ROWS")
    assert (lookup["bytes_read"], lookup["bytes_written"]) == (N_EMBD * Q8_0 + 4, N_EMBD * F32)
    store = decode_op(trace, "cache_k_l0 (view)", "SET_ROWS")
    assert store["bytes_read"] == N_KV_HEADS * HEAD * F32 + 8
    assert store["bytes_written"] == N_KV_HEADS * HEAD * F16


def test_small_ops_cost_what_their_sizes_say(trace: melt.Trace) -> None:
    row_bytes = N_EMBD * F32
    norm = decode_op(trace, "attn_norm-0", "RMS_NORM+MUL")
    assert (norm["bytes_read"], norm["bytes_written"], norm["flops"]) == (2 * row_bytes, row_bytes, 4 * N_EMBD)
    residual = decode_op(trace, "ffn_inp-0", "ADD")
    assert (residual["bytes_read"], residual["bytes_written"]) == (2 * row_bytes, row_bytes)
    assert residual["flops"] == N_EMBD
    rope = decode_op(trace, "Kcur-0", "ROPE")
    assert rope["shape"] == f"{N_KV_HEADS}x{HEAD}"
    assert rope["flops"] == 3 * N_KV_HEADS * HEAD


def test_prefill_works_on_all_tokens_of_the_prompt(trace: melt.Trace) -> None:
    (run,) = trace.runs.to_dicts()
    (up,) = [row for row in definitions(trace, 0) if row["op"] == "ffn_up-0"]
    n = run["n_prompt"]
    assert up["shape"] == f"{n}x{N_FF}"
    assert up["flops"] == 2 * N_EMBD * N_FF * n
    assert up["bytes_read"] == N_EMBD * N_FF * Q4_1 + n * N_EMBD * F32
    # Only one token's logits are asked for.
    (output,) = [row for row in definitions(trace, 0) if row["op"] == "result_output"]
    assert output["shape"] == f"1x{N_VOCAB}"


def test_decode_reads_each_weight_once(trace: melt.Trace, llm: melt.LLM) -> None:
    by_weight = {row["weight"]: row for row in definitions(trace, 1) if row["op_type"] == "MUL_MAT"}
    n_weights = sum(row["flops"] / 2 for row in by_weight.values())
    norms = (2 * N_LAYERS + 1) * N_EMBD
    assert n_weights + norms == llm.info.n_params


# Read, shown and kept


def test_reports_can_be_made_of_it(trace: melt.Trace, tmp_path: Path) -> None:
    summary = trace.summary()
    assert summary.runtime == "llama.cpp"
    assert summary.n_output == N_OUTPUT
    assert summary.decode_tok_s is not None
    assert "tok/s" in str(summary)
    by_type = {row["key"]: row for row in trace.key_averages().to_dicts()}
    assert by_type["MUL_MAT"]["count"] == N_OUTPUT * (7 * N_LAYERS + 1)
    trace.export(tmp_path / "trace.json", format="chrome")
    events = json.loads((tmp_path / "trace.json").read_text())
    assert len(events["traceEvents"] if isinstance(events, dict) else events) > N_OUTPUT * N_GROUPS
    melt.report([trace], tmp_path / "trace.html")
    assert "<html" in (tmp_path / "trace.html").read_text()[:200].lower()
    trace.save(tmp_path / "copy.melt")
    assert melt.Trace.open(tmp_path / "copy.melt").summary().output_token_ids == summary.output_token_ids


def test_metadata_says_what_ran_on_what(trace: melt.Trace) -> None:
    metadata = trace.metadata
    assert metadata["experiment"] == {"name": "demo", "value": 7}
    assert metadata["runtime"]["name"] == "llama.cpp"
    assert metadata["runtime"]["commit"]
    assert metadata["model"]["quantization"].upper() == "Q4_1"
    assert metadata["device"]
