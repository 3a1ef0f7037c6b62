"""The MLC runtime on a tiny compiled model: right, whole, attributed, and as the other runtimes behave."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import melt_core as melt
from fakes.mlc_model import FF, HEAD, HEADS, HIDDEN, KV_HEADS, N_LAYERS, VOCABULARY
from melt_core.errors import InvalidArgumentError
from melt_core.models.mlc.verify import reference_of

from .conftest import Outcome
from .demo_runs import generate

PROMPT = [5, 77, 130, 9, 250, 31, 8]
HEAD_MODULES = ("attention", "ffn", "norm", "rope", "kv-cache", "embedding", "lm_head", "runtime")


def load(folder: Path, **options: Any) -> melt.LLM:
    return melt.load(folder, runtime="mlc", **{"n_threads": 1, "n_ctx": 256, **options})


def profiled(folder: Path, prompt: Any = PROMPT, *, load_options: Any = None, **options: Any) -> Any:
    levels = options.pop("levels", ("tokens", "ops"))
    with load(folder, **(load_options or {})) as llm, melt.profile(llm, levels=levels) as prof:
        done = prof.run(prompt, **{"max_tokens": 6, "ignore_eos": True, "warmup": 0, "overhead_budget_s": 0, **options})
    return done, prof.trace


@pytest.fixture(scope="module")
def trace(mlc_packed: Path) -> melt.Trace:
    return profiled(mlc_packed, warmup=1)[1]


def rows(trace: melt.Trace, **wanted: Any) -> list[dict[str, Any]]:
    found = [row for row in trace.op_definitions.to_dicts() if row["topology"] == trace.graphs["topology"][-1]]
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


# Right


def test_greedy_tokens_and_logits_are_those_of_numpy(mlc_plain: Path) -> None:
    # GIVEN 64 tokens by NumPy in float32
    tokens, logits = reference_of(mlc_plain).greedy(PROMPT, 64)
    assert len(set(tokens)) > 5  # else the test would prove little
    # WHEN the compiled model runs the same prompt
    done, trace = profiled(mlc_plain, max_tokens=64, keep_logits=True)
    # THEN its tokens are the same, and its highest logits within 1e-3
    assert list(done.token_ids) == tokens
    kept = trace.metadata["logits"]
    assert kept["token_ids"] == tokens
    for ids, values, expected in zip(kept["top_ids"], kept["top_logits"], logits, strict=True):
        assert np.abs(np.array(values) - expected[ids]).max() <= 1e-3 * np.abs(expected).max()


def test_a_prompt_longer_than_the_chunk_gives_the_same(mlc_plain: Path) -> None:
    prompt = [(7 * i) % VOCABULARY for i in range(150)]  # the library takes 128 at once
    done, trace = profiled(mlc_plain, prompt)
    assert list(done.token_ids) == reference_of(mlc_plain).greedy(prompt, 6)[0]
    assert len(trace.graphs) == 2 + 5
    assert trace.summary().conservation.min >= 0.99


def test_threads_do_not_change_the_tokens(mlc_packed: Path) -> None:
    assert profiled(mlc_packed)[0].token_ids == profiled(mlc_packed, load_options={"n_threads": 2})[0].token_ids


def test_a_session_runs_in_another_thread(mlc_packed: Path) -> None:
    found: list[Any] = []
    with load(mlc_packed) as llm, melt.profile(llm, levels=("tokens",)) as prof:
        worker = threading.Thread(target=lambda: found.append(prof.run(PROMPT, max_tokens=4, overhead_budget_s=0)))
        worker.start()
        worker.join(60)
    assert found[0].token_ids == profiled(mlc_packed, max_tokens=4)[0].token_ids


def test_both_runtimes_share_a_thread(mlc_packed: Path, demo: Path) -> None:
    """Each sets the tiles of AMX, where there are any, in its own way."""
    with melt.load(demo, n_threads=1, n_ctx=128) as llama, load(mlc_packed) as mlc:
        found = [[generate(llm, list(range(40, 90)), max_tokens=4).token_ids for llm in (llama, mlc)] for _ in range(2)]
    assert found[0] == found[1]


def test_the_older_name_of_the_tensor_cache_is_read(mlc_copy: Path, mlc_packed: Path) -> None:
    (mlc_copy / "tensor-cache.json").rename(mlc_copy / "ndarray-cache.json")
    assert profiled(mlc_copy)[0].token_ids == profiled(mlc_packed)[0].token_ids


# Whole


def test_op_times_add_up_and_the_machine_has_its_own_row(trace: melt.Trace) -> None:
    conservation = trace.summary().conservation
    assert conservation.min >= 0.99
    assert conservation.n_excluded == 0
    by_type = {row.key: row for row in trace.key_averages("op_type")}
    assert 0 < by_type["VM_OVERHEAD"].share < 0.9
    assert by_type["MUL_MAT"].wall_ns > 0
    (run, _) = (row for row in trace.runs.to_dicts())
    assert (run["n_graphs"], run["n_dropped"]) == (6, 0)


def test_stretches_follow_each_other_without_gaps(trace: melt.Trace) -> None:
    end = None
    for row in trace.ops.to_dicts():
        if row["op_type"] in ("SAMPLE", "TOKENIZE"):
            continue
        if end is not None and row["start_ns"] < end + 10_000:
            assert row["start_ns"] >= end - 2
        end = row["start_ns"] + row["compute_ns"] + row["wait_ns"]


def test_each_kernel_runs_as_often_as_the_model_says(trace: melt.Trace) -> None:
    counts = Counter((row["token"], row["op_type"]) for row in trace.ops.to_dicts() if row["run"] == 1)
    for token in range(1, 6):
        assert counts[token, "MUL_MAT"] == 2 * N_LAYERS + 1
        assert counts[token, "MUL_MAT+ADD"] == 2 * N_LAYERS  # what returns to the stream
        assert counts[token, "RMS_NORM+MUL"] == 2 * N_LAYERS + 1
        assert counts[token, "FLASH_ATTN_EXT"] == N_LAYERS
        assert counts[token, "SET_ROWS"] == N_LAYERS
        assert counts[token, "ROPE"] == N_LAYERS


# Attributed


def test_modules_and_layers_are_those_of_a_llama(trace: melt.Trace) -> None:
    assert {row["module"] for row in rows(trace)} == set(HEAD_MODULES)
    kernels = [row for row in rows(trace) if row["module"] not in ("runtime", "embedding", "lm_head")]
    layers = Counter(row["layer"] for row in kernels if not row["op"].startswith("vm."))
    assert layers.pop(None) == 1  # the last norm
    assert layers[0] == layers[1] >= 10
    assert set(layers) == {0, 1}


def test_the_kernels_inside_attention_are_seen(trace: melt.Trace) -> None:
    for layer in range(N_LAYERS):
        (attention,) = rows(trace, op_type="FLASH_ATTN_EXT", layer=layer)
        assert attention["op"].startswith("batch_decode_paged_kv")
        assert attention["module"] == "attention"
        positions = 256  # as the graphs of llama.cpp: rounded up
        assert attention["src_shape"] == f"{HEADS}x1x{HEAD} {KV_HEADS}x{positions}x{HEAD} {KV_HEADS}x{positions}x{HEAD}"
        assert attention["flops"] == 2 * positions * HEADS * 2 * HEAD
        assert attention["bytes_read"] == 4 * (HEADS * HEAD + 2 * KV_HEADS * positions * HEAD)
        (store,) = rows(trace, op_type="SET_ROWS", layer=layer)
        assert (store["module"], store["bytes_written"]) == ("kv-cache", 2 * KV_HEADS * HEAD * 4)


def test_products_have_exact_flops_and_bytes(trace: melt.Trace) -> None:
    sizes = {"qkv": ((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN), "o": (HIDDEN, HEADS * HEAD), "gate_up": (2 * FF, HIDDEN),
             "down": (HIDDEN, FF)}  # fmt: skip
    products = [row for row in rows(trace, layer=1) if row["op_type"].startswith("MUL_MAT")]
    assert len(products) == len(sizes)
    for row in products:
        n, k = sizes[row["weight"].split(".")[-2].removesuffix("_proj")]
        adds = row["op_type"] == "MUL_MAT+ADD"
        assert row["flops"] == 2 * n * k + (n if adds else 0)
        packed = n * k / 2 + n * k / 32 * 4  # four bits, and a scale for 32
        assert row["bytes_read"] == packed + 4 * k + (4 * n if adds else 0)
        assert row["bytes_written"] == 4 * n


def test_names_are_kept(trace: melt.Trace) -> None:
    names = {row["op"] for row in rows(trace)}
    assert {"vm", "vm.builtin.alloc_tensor", "tir_kv_cache_transpose_append"} <= names


# Memory


def test_memory_is_measured_where_it_lies(mlc_packed: Path) -> None:
    with load(mlc_packed) as llm:
        held = {part.category: part.bytes for part in llm.info.memory}
        assert llm.info.n_params == HIDDEN * (VOCABULARY + 5) + N_LAYERS * HIDDEN * (128 + 64 + 192 + 96)
    _, trace = profiled(mlc_packed, levels=("tokens", "memory"))
    events = trace.allocations.to_dicts()
    total = Counter()
    for row in events:
        total[row["category"]] += row["bytes"] if row["event"] == "allocated" else -row["bytes"]
    n_pages = 256 // 16 + 1
    assert total["kv"] == held["kv"] == N_LAYERS * n_pages * 2 * KV_HEADS * 16 * HEAD * 4
    assert total["weights"] == held["weights"]
    assert total["compute"] > 0
    resident = {row["site"]: row["value"] for row in trace.samples.to_dicts() if row["kind"] == "resident"}
    assert resident["buffers/weights"] == held["weights"]
    assert 0 < resident["buffers/kv"] <= held["kv"]


# As the other runtimes


def test_the_command_profiles_a_directory(mlc_packed: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    output = tmp_path / "t.melt"
    done = cli("profile", mlc_packed, "--runtime", "mlc", "--prompt-tokens", 9, "--max-tokens", 4, "--ctx", 128,
               "--repeats", 1, "--overhead-seconds", 0, "--threads", 1, "-o", output)  # fmt: skip
    assert done.code == 0, done.err
    trace = melt.Trace.open(output)
    assert trace.metadata["runtime"]["name"] == "mlc"
    assert trace.metadata["model_file"]["file_bytes"] > 100_000
    assert len(trace.metadata["model_file"]["sha256"]) == 64


def test_cancel_ends_a_run_and_the_next_one_is_whole(mlc_packed: Path) -> None:
    with load(mlc_packed) as llm:
        with melt.profile(llm, levels=("tokens", "ops")) as prof:
            timer = threading.Timer(0.2, llm.cancel)
            timer.start()
            prof.run(PROMPT, max_tokens=200, ignore_eos=True, repeats=100_000, overhead_budget_s=0)
            timer.join()
        assert prof.trace.complete
        assert len(prof.trace.runs) < 100_000
        with melt.profile(llm, levels=("tokens",)) as prof:
            done = prof.run(PROMPT, max_tokens=6, ignore_eos=True, overhead_budget_s=0)
    assert done.token_ids == profiled(mlc_packed)[0].token_ids


def test_a_full_context_ends_the_run(mlc_packed: Path) -> None:
    done, trace = profiled(mlc_packed, max_tokens=100, load_options={"n_ctx": 16})
    assert len(done.token_ids) == 16 - len(PROMPT) + 1
    assert trace.runs.to_dicts()[-1]["stop_reason"] == "context_full"


def test_ids_outside_the_vocabulary_are_refused(mlc_packed: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="token id 320 is outside the vocabulary of 320"):
        profiled(mlc_packed, [3, VOCABULARY])


def test_seeded_draws_repeat(mlc_packed: Path) -> None:
    draws = [profiled(mlc_packed, temperature=1.5, seed=seed, max_tokens=12)[0].token_ids for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_importing_melt_core_brings_no_tvm() -> None:
    code = "import sys, melt_core, melt_core.runtime; assert not {'tvm', 'tvm_ffi', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tvm_that_python_has_loaded_is_used(mlc_packed: Path) -> None:
    code = (
        "import tvm, melt_core as melt\n"
        f"with melt.load({str(mlc_packed)!r}, runtime='mlc', n_threads=1, n_ctx=64) as llm:\n"
        "    with melt.profile(llm, levels=('tokens', 'ops')) as prof:\n"
        f"        print(*prof.run({PROMPT}, max_tokens=6, ignore_eos=True, warmup=0, overhead_budget_s=0).token_ids)\n"
        "import numpy as np\n"
        "reshape = tvm.get_global_func('vm.builtin.reshape')\n"
        "assert reshape(tvm.runtime.tensor(np.zeros(4)), tvm.runtime.ShapeTuple([2, 2])).shape == (2, 2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert tuple(map(int, done.stdout.split())) == profiled(mlc_packed)[0].token_ids
