"""Profiling SmolLM2-135M in process: is what was recorded whole, attributed, right and harmless?"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt
from melt_core.errors import BusyError, InvalidArgumentError

from .conftest import TIMEOUT_S

PROMPT = "Explain photosynthesis in one sentence."
N_OUTPUT = 4
N_LAYERS, N_EMBD, N_FF, N_HEADS, N_KV_HEADS, HEAD = 30, 576, 1536, 9, 3, 64
N_VOCAB = 49152
Q4_1, Q8_0, F16, F32 = 20 / 32, 34 / 32, 2, 4  # bytes of one value
Q8_0_AMX = 38 / 32  # ggml's AMX layout keeps a 32-bit sum beside each block of 32
N_GROUPS = 1 + 17 * N_LAYERS + 2 + 2  # embedding; layers; choosing the last token; norm and output: 515
ROUNDING_NS = 2  # start and duration are rounded on their own
N_KV_PADDED = 256  # llama.cpp attends over a multiple of 256 cells


@pytest.fixture(scope="module")
def llm(demo: Path) -> Iterator[melt.LLM]:
    """The model on one thread: on a loaded machine a second one waits in barriers most of the time."""
    with melt.load(demo, n_threads=1, n_ctx=512) as loaded:
        yield loaded


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
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


def generate(llm: melt.LLM, prompt: Any = PROMPT, *, levels: Any = ("tokens",), **options: Any) -> melt.Completion:
    with melt.profile(llm, levels=levels) as profiler:
        return profiler.run(prompt, **{"max_tokens": N_OUTPUT, "warmup": 0, "overhead_budget_s": 0, **options})


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


# The same output


def test_greedy_output_is_the_same_each_time_and_at_each_level(llm: melt.LLM, demo: Path) -> None:
    with melt.profile(llm, levels=("tokens", "ops")) as profiler:
        first = profiler.run(PROMPT, max_tokens=8, repeats=2, warmup=1, overhead_budget_s=0)
    ids = {tuple(r["token_id"] for r in profiler.trace.tokens.to_dicts() if r["run"] == run) for run in range(3)}
    assert ids == {first.token_ids}
    assert generate(llm, max_tokens=8).token_ids == first.token_ids
    assert llm.decode(first.token_ids) == first.text


def test_drawing_depends_on_the_seed_only(llm: melt.LLM) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return generate(llm, "Once", max_tokens=8, temperature=2.0, top_k=1000, top_p=1.0, seed=seed).token_ids

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in (1, 2, 3)}) > 1


def test_a_prompt_longer_than_a_batch_is_split(llm: melt.LLM, demo: Path) -> None:
    # GIVEN a prompt of more tokens than a batch holds
    ids = llm.encode("The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is")
    with melt.load(demo, n_threads=1, n_ctx=512, n_batch=16) as small, melt.profile(small) as split:
        in_parts = split.run(ids, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    with melt.profile(llm) as whole:
        at_once = whole.run(ids, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    # THEN there are more graphs, and the same output
    assert 16 < len(ids) <= 32
    assert in_parts.token_ids == at_once.token_ids
    assert [len(p.trace.graphs) for p in (split, whole)] == [N_OUTPUT + 1, N_OUTPUT]
    assert [row["n_tokens"] for row in split.trace.tokens.to_dicts()][:1] == [len(ids)]
    assert split.trace.runs.to_dicts()[0]["n_dropped"] == 0


def test_a_prompt_as_text_and_as_ids_is_the_same(llm: melt.LLM) -> None:
    as_text = generate(llm)
    assert generate(llm, as_text.prompt_token_ids).token_ids == as_text.token_ids


def test_chat_format_is_the_models_own(llm: melt.LLM) -> None:
    text = llm.format_chat([("user", "Hi")])
    assert text.endswith("<|im_start|>assistant\n")
    assert "<|im_start|>user\nHi<|im_end|>" in text


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


# Alone, together and after the end


def test_two_models_in_one_process_are_both_usable(llm: melt.LLM, tiny_llama: Path) -> None:
    before = generate(llm).token_ids
    with melt.load(tiny_llama, n_threads=1) as other:
        assert other.info.n_vocab != llm.info.n_vocab
        assert len(generate(other, levels=("tokens", "ops"), ignore_eos=True).token_ids) == N_OUTPUT
        assert generate(llm, levels=("tokens", "ops")).token_ids == before
    assert generate(llm, levels=("tokens", "ops")).token_ids == before


def test_two_recordings_at_once_do_not_see_each_other(llm: melt.LLM, tiny_llama: Path) -> None:
    # GIVEN a long recording in one thread
    traces: list[melt.Trace] = []

    def record_long() -> None:
        with melt.profile(llm) as profiler:
            profiler.run(PROMPT, max_tokens=100, ignore_eos=True, warmup=0, overhead_budget_s=0)
        traces.append(profiler.trace)

    expected = generate(llm, max_tokens=100, ignore_eos=True).token_ids
    thread = threading.Thread(target=record_long)
    n_beside = 0
    with melt.load(tiny_llama, n_threads=1) as other:
        thread.start()
        # WHEN another model is recorded at the same time, again and again
        while thread.is_alive():
            with melt.profile(other) as profiler:
                profiler.run([1, 2, 3], max_tokens=5, warmup=0, ignore_eos=True, overhead_budget_s=0)
            # THEN each trace holds its own graphs, and all of them
            run = profiler.trace.runs.to_dicts()[0]
            assert (run["n_graphs"], run["n_dropped"]) == (5, 0)
            n_beside += 1
        thread.join()
    assert n_beside > 0
    run = traces[0].runs.to_dicts()[0]
    assert (run["n_groups"], run["n_dropped"]) == (100 * N_GROUPS, 0)
    assert traces[0].summary().output_token_ids == expected


def test_one_model_runs_once_at_a_time(llm: melt.LLM) -> None:
    # GIVEN a long run of a model
    started = threading.Event()

    def run_long() -> None:
        with melt.profile(llm, levels=("tokens",)) as profiler:
            profiler.run(PROMPT, max_tokens=100, ignore_eos=True, warmup=0, on_repetition=lambda *_: started.set())

    thread = threading.Thread(target=run_long)
    thread.start()
    started.wait()
    # WHEN it is to run in another thread at the same time THEN that is refused
    with pytest.raises(BusyError, match="already running"):
        generate(llm, [1, 2, 3])
    thread.join()
    generate(llm, [1, 2, 3])  # AND it is free again


#: Records the ops of one model while another one runs unrecorded in a second thread.
BYSTANDER = """
import json, sys, threading
import melt_core as melt
ended = threading.Event()
def run_beside():
    while not ended.is_set():
        with melt.profile(bystander, levels=("tokens",)) as profiler:
            profiler.run([5, 6, 7], max_tokens=20, warmup=0, ignore_eos=True)
with melt.load(sys.argv[1], n_threads=1) as recorded, melt.load(sys.argv[1], n_threads=1) as bystander:
    thread = threading.Thread(target=run_beside)
    thread.start()
    try:
        with melt.profile(recorded) as profiler:
            profiler.run([1, 2, 3], max_tokens=100, repeats=5, warmup=0, ignore_eos=True, overhead_budget_s=0)
    finally:
        ended.set()
        thread.join()
print(json.dumps([[run["n_graphs"], run["n_groups"], run["n_dropped"]] for run in profiler.trace.runs.to_dicts()]))
"""


def test_a_model_that_runs_beside_a_recording_is_not_in_it(start_python: Any, tiny_llama: Path) -> None:
    # In a process of its own: what goes wrong here may overwrite memory.
    child = start_python(BYSTANDER, tiny_llama)
    out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, err[-500:]
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm) as alone:
        alone.run([1, 2, 3], max_tokens=100, warmup=0, ignore_eos=True, overhead_budget_s=0)
    (run,) = alone.trace.runs.to_dicts()
    assert json.loads(out) == [[run["n_graphs"], run["n_groups"], 0]] * 5


def test_a_model_runs_once_at_a_time(tiny_llama: Path) -> None:
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm, levels=("tokens",)) as profiler:

        def run_again(done: int, total: int) -> None:
            with pytest.raises(BusyError, match="already running"):
                profiler.run([1, 2], max_tokens=1)

        profiler.run([1, 2], max_tokens=1, warmup=0, on_repetition=run_again)
    assert len(profiler.trace.runs) == 1


def test_closing_twice_is_harmless_and_use_after_it_is_refused(tiny_llama: Path) -> None:
    llm = melt.load(tiny_llama, n_threads=1)
    profiler = melt.profile(llm, levels=("tokens",))
    with profiler:
        profiler.run([1, 2], max_tokens=1, warmup=0)
        llm.close()
        llm.close()
        for use in (
            lambda: llm.info,
            lambda: llm.encode("x"),
            lambda: llm.decode([1]),
            lambda: melt.profile(llm),
            lambda: profiler.run([1], max_tokens=1),
        ):
            with pytest.raises(InvalidArgumentError, match="closed"):
                use()
        llm.cancel()  # nothing to cancel is no error
    assert "unload" in {row["phase"] for row in profiler.trace.phases.to_dicts()}
    profiler.finish()
    with pytest.raises(InvalidArgumentError, match=r"finished|closed"):
        profiler.run([1], max_tokens=1)


def test_an_error_in_the_callers_code_leaves_a_complete_trace(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.melt"
    with melt.load(tiny_llama, n_threads=1) as llm:

        def fail(done: int, total: int) -> None:
            if done == 2:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), melt.profile(llm, output=path) as profiler:
            profiler.run([1, 2], max_tokens=2, warmup=0, repeats=5, overhead_budget_s=0, on_repetition=fail)
    trace = melt.Trace.open(path)
    assert trace.complete
    assert len(trace.runs) == 2
