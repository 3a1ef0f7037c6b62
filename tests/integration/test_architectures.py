"""Attribution and costs on random-weight models of each kind of graph: dense, experts, state space, hybrid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType, GGUFReader

import melt_core as melt
from fakes.ceilings import FakeCeilings
from fakes.tiny_models import ARCHITECTURES, Dims, is_recurrent_layer, write_model
from melt_core.analysis.mbu import mbu_of
from melt_core.analysis.roofline import PHASES, roofline

MODULES = {
    "attention", "ffn", "norm", "rope", "kv-cache", "embedding", "lm_head", "ssm", "residual", "sampling",
}  # fmt: skip
DIMS = Dims()
N_PROMPT, N_OUTPUT = 5, 3
PROMPT = [1, 300, 301, 302, 303]


class Profiled:
    """One architecture's trace."""

    def __init__(self, architecture: str, trace: melt.Trace, info: melt.ModelInfo) -> None:
        """Keeps the definitions of the graphs, without those of host work such as sampling."""
        self.architecture = architecture
        self.trace = trace
        self.info = info
        self.ops: list[dict[str, Any]] = [row for row in trace.op_definitions.to_dicts() if row["topology"] is not None]

    def decode_ops(self) -> list[dict[str, Any]]:
        """The definitions of the first decode graph."""
        return [row for row in self.ops if row["topology"] == 1]

    def of_weight(self, part: str) -> list[dict[str, Any]]:
        """Decode ops that read a weight whose name holds `part`."""
        return [row for row in self.decode_ops() if part in (row["weight"] or "")]


def record(path: Path, architecture: str, **options: Any) -> Profiled:
    with melt.load(path, n_threads=1, n_ctx=256, **options) as llm, melt.profile(llm) as prof:
        prof.run(PROMPT, max_tokens=N_OUTPUT, warmup=0, ignore_eos=True, overhead_budget_s=0)
        info = llm.info
    return Profiled(architecture, prof.trace, info)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def profiled(request: pytest.FixtureRequest, vocabularies: Path, tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    path = write_model(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", request.param)
    assert path.stat().st_size < 8 << 20
    return record(path, request.param)


def described(rows: list[dict[str, Any]]) -> list[str]:
    """What a failing assertion should show of ops."""
    return [f"{row['op']} {row['op_type']} weight={row['weight']} L{row['layer']} -> {row['module']}" for row in rows]


def test_a_run_of_prefill_and_decode_is_recorded_whole(profiled: Profiled) -> None:
    trace = profiled.trace
    assert trace.complete
    assert not trace.warnings
    assert profiled.info.architecture == profiled.architecture.partition("+")[0]
    (run,) = trace.runs.to_dicts()
    assert (run["n_prompt"], run["n_output"], run["stop_reason"]) == (N_PROMPT, N_OUTPUT, "limit")
    assert run["n_graphs"] == N_OUTPUT
    assert run["n_dropped"] == 0
    n_executed = sum(row["n_groups"] for row in trace.graphs.to_dicts())
    assert run["n_groups"] == run["n_records"] == n_executed
    assert {row["topology"] for row in profiled.ops} >= {0, 1}


def test_op_times_add_up_to_graph_times(profiled: Profiled) -> None:
    conservation = profiled.trace.summary().conservation
    # Nothing is counted twice. The other bound is loose: whatever interrupts a 1 ms graph between two ops counts.
    assert conservation.median is not None
    assert conservation.min is not None
    assert conservation.min > 0.5
    assert 0.9 < conservation.median < 1.001


def test_each_op_has_a_module(profiled: Profiled) -> None:
    assert described([row for row in profiled.ops if row["module"] not in MODULES]) == []
    shares = {row["key"]: row["share"] for row in profiled.trace.key_averages("module").to_dicts()}
    assert shares.get("other", 0.0) <= 0.02


def test_each_op_of_a_layer_has_its_number(profiled: Profiled) -> None:
    outside = {"embedding", "lm_head", "norm", "sampling"}
    without = [row for row in profiled.ops if row["layer"] is None]
    assert described([row for row in without if row["module"] not in outside]) == []
    assert (
        described([row for row in without if row["module"] == "norm" and row["weight"] != "output_norm.weight"]) == []
    )
    inside = [row for row in profiled.ops if row["layer"] is not None]
    assert {row["layer"] for row in inside} == set(range(DIMS.layers))
    for row in inside:
        if (row["weight"] or "").startswith("blk."):
            assert row["weight"].startswith(f"blk.{row['layer']}.")


def test_choosing_the_last_token_is_outside_the_layers(profiled: Profiled) -> None:
    # GIVEN the rows that llama.cpp picks before the last feed-forward, as only they give logits
    picked = [row for row in profiled.decode_ops() if row["op_type"] == "GET_ROWS" and row["module"] == "lm_head"]
    # THEN they are all in one place
    assert described([row for row in picked if row["layer"] is not None]) == []


def test_weights_say_the_module(profiled: Profiled) -> None:
    expected = {
        ".attn_q.": "attention", ".attn_k.": "attention", ".attn_v.": "attention", ".attn_qkv.": "attention",
        ".attn_output.": "attention", ".ffn_gate": "ffn", ".ffn_up": "ffn", ".ffn_down": "ffn", "_norm": "norm",
        ".ssm_in.": "ssm", ".ssm_x.": "ssm", ".ssm_dt.": "ssm", ".ssm_a": "ssm", ".ssm_out.": "ssm",
        ".ssm_conv1d.": "ssm",
    }  # fmt: skip
    for part, module in expected.items():
        wrong = [row for row in profiled.of_weight(part) if row["module"] != module]
        assert described(wrong) == [], f"{part} belongs to {module}"


def test_ops_say_the_module(profiled: Profiled) -> None:
    expected = {
        "FLASH_ATTN_EXT": "attention",
        "ROPE": "rope",
        "MUL_MAT_ID": "ffn",
        "SSM_SCAN": "ssm",
        "SSM_CONV": "ssm",
    }
    for op_type, module in expected.items():
        wrong = [row for row in profiled.ops if row["op_type"] == op_type and row["module"] != module]
        assert described(wrong) == []
    stores = [row for row in profiled.ops if row["op_type"] == "SET_ROWS"]
    assert described([row for row in stores if row["module"] != "kv-cache"]) == []
    n_attention_layers = len([row for row in profiled.decode_ops() if row["op_type"] == "FLASH_ATTN_EXT"])
    assert len([row for row in stores if row["topology"] == 1]) == 2 * n_attention_layers  # K and V


def test_each_layer_has_the_modules_that_its_kind_has(profiled: Profiled) -> None:
    arch = profiled.architecture
    for layer in range(DIMS.layers):
        modules = {row["module"] for row in profiled.decode_ops() if row["layer"] == layer}
        pure_state_space = arch in ("mamba", "mamba2")
        has_attention = not pure_state_space and (arch == "falcon-h1" or not is_recurrent_layer(arch, layer))
        assert ("ssm" in modules) == is_recurrent_layer(arch, layer), modules
        assert ("attention" in modules) == has_attention, modules
        assert ("kv-cache" in modules) == has_attention, modules
        assert ("ffn" in modules) == (not pure_state_space), modules
        assert {"norm", "residual"} <= modules


def test_additions_onto_the_stream_are_residual(profiled: Profiled) -> None:
    n_per_layer = 1 if profiled.architecture in ("mamba", "mamba2") else 2
    residual = [row for row in profiled.decode_ops() if row["module"] == "residual"]
    assert {row["op_type"] for row in residual} == {"ADD"}
    for layer in range(DIMS.layers):
        assert len([row for row in residual if row["layer"] == layer]) == n_per_layer, described(residual)
    # Those that llama.cpp names are where they belong, whichever module the summands come from.
    named = [row for row in profiled.ops if row["op"].startswith(("ffn_inp-", "sa_out-", "l_out-"))]
    additions = [row for row in named if row["op_type"] == "ADD"]
    assert described([row for row in additions if row["module"] != "residual"]) == []
    assert additions or profiled.architecture in ("mamba", "mamba2")


def test_bytes_and_flops_of_each_op_are_known(profiled: Profiled) -> None:
    for name in ("bytes_read", "bytes_written", "flops"):
        unknown = [row for row in profiled.ops if row[name] is None]
        assert sorted({f"{row['op_type']} {row['shape']} of {row['src_shape']}" for row in unknown}) == [], name
        assert min(row[name] for row in profiled.ops) >= 0


def test_matrix_products_cost_what_their_shapes_say(profiled: Profiled) -> None:
    products = [row for row in profiled.ops if row["op_type"] == "MUL_MAT"]
    assert products
    for row in products:
        n_out, n_in = (int(size) for size in row["src_shape"].split()[0].split("x"))
        n_tokens = int(row["shape"].split("x")[0])
        weight_bytes = {"f16": 2, "f32": 4}[row["src_dtype"].split()[0]]
        assert row["flops"] == 2 * n_out * n_in * n_tokens, described([row])
        assert row["bytes_read"] == n_out * n_in * weight_bytes + n_in * n_tokens * 4, described([row])
        assert row["bytes_written"] == n_out * n_tokens * 4, described([row])


def test_lookups_read_their_rows_and_not_the_table(profiled: Profiled) -> None:
    (lookup,) = profiled.of_weight("token_embd.weight")[:1]
    assert (lookup["op_type"], lookup["module"]) == ("GET_ROWS", "embedding")
    assert lookup["bytes_read"] == DIMS.embd * 2 + 4
    assert lookup["bytes_written"] == DIMS.embd * 4


@pytest.mark.parametrize(("arch", "ff"), [("llama+moe", DIMS.ff), ("qwen2moe", DIMS.ff_expert), ("olmoe", DIMS.ff)])
def test_only_the_experts_that_are_used_are_read(vocabularies: Path, tmp_path: Path, arch: str, ff: int) -> None:
    profiled = record(write_model(tmp_path / "moe.gguf", arch), arch)
    used, index_bytes = DIMS.experts_used, 4 * DIMS.experts_used
    for part, n_in, n_out, n_rows_in in (
        ("ffn_gate_exps", DIMS.embd, ff, 1),
        ("ffn_up_exps", DIMS.embd, ff, 1),
        ("ffn_down_exps", ff, DIMS.embd, used),
    ):
        for row in profiled.of_weight(part):
            assert row["op_type"] == "MUL_MAT_ID"
            assert row["flops"] == 2 * used * n_in * n_out
            assert row["bytes_read"] == used * n_in * n_out * 2 + n_rows_in * n_in * 4 + index_bytes
            assert row["bytes_written"] == used * n_out * 4
        # With more tokens than experts, each expert is read at most once.
        (prefill,) = [row for row in profiled.ops if row["topology"] == 0 and f"blk.0.{part}" in (row["weight"] or "")]
        assert prefill["bytes_read"] < (DIMS.experts + 1) * n_in * n_out * 2 + 4 * N_PROMPT * used * (n_in + 1)
    routing = [row for row in profiled.decode_ops() if row["op"].startswith("ffn_moe_")]
    assert {row["module"] for row in routing} == {"ffn"}
    assert {"ARGSORT", "SOFT_MAX", "GET_ROWS", "MUL_MAT", "MUL_MAT_ID"} <= {row["op_type"] for row in routing}


def test_the_selective_scan_reads_and_writes_its_state(vocabularies: Path, tmp_path: Path) -> None:
    profiled = record(write_model(tmp_path / "mamba.gguf", "mamba"), "mamba")
    channels, state = DIMS.inner, DIMS.state
    for row in (row for row in profiled.decode_ops() if row["op_type"] == "SSM_SCAN"):
        assert row["flops"] == 7 * channels * state
        # state, x and dt, A, B and C, and the state's row number
        assert row["bytes_read"] == 4 * (channels * state + 2 * channels + channels * state + 2 * state + 1)
        assert row["bytes_written"] == 4 * (channels + channels * state)


def test_repacked_weights_are_named_and_keep_their_bytes(vocabularies: Path, tmp_path: Path) -> None:
    # GIVEN a quantization that ggml may copy into another layout, where this CPU has kernels for it
    path = write_model(tmp_path / "q4_0.gguf", weight_type=GGMLQuantizationType.Q4_0)
    # WHEN it is profiled with and without that
    layouts = [record(path, "llama", repack=repack) for repack in (True, False)]
    # THEN a weight's bytes are the same, and the buffer says which it is
    repacked, plain = (list(p.of_weight("blk.0.ffn_up")) for p in layouts)
    n_weights = DIMS.embd * DIMS.ff
    assert plain[0]["bytes_read"] == n_weights * 18 / 32 + DIMS.embd * 4
    assert repacked[0]["bytes_read"] == plain[0]["bytes_read"]
    assert plain[0]["buffer"] == "CPU_Mapped"
    assert repacked[0]["src_dtype"].startswith("q4_0")


def test_output_is_the_same_with_and_without_mapping_the_file(vocabularies: Path, tmp_path: Path) -> None:
    path = write_model(tmp_path / "llama.gguf")
    traces = [record(path, "llama", use_mmap=use_mmap).trace for use_mmap in (True, False)]
    assert traces[0].summary().output_token_ids == traces[1].summary().output_token_ids


def test_each_op_has_a_place_under_the_roofs(profiled: Profiled) -> None:
    for phase in PHASES:
        found = roofline(profiled.trace, FakeCeilings(), phase=phase)
        assert set(found.no_formula) <= {"SAMPLE", "TOKENIZE"}
        placed = [row for row in found.rows if row.ceiling_ratio is not None]
        rest = {row.key: row.reason for row in found.rows if row.ceiling_ratio is None and row.key != "SAMPLE"}
        assert set(rest.values()) <= {"it reads and writes nothing"}, rest  # of state space models: clears no state
        assert all(row.ceiling_ratio > 0 and row.bound in ("bandwidth", "compute") for row in placed)
    mbu = mbu_of(profiled.trace, FakeCeilings())
    assert mbu.reason is None
    assert mbu.weight_bytes
    assert mbu.kv_bytes


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "phi3"])
def test_a_decode_step_reads_all_weights_of_the_file_and_the_positions_so_far(
    vocabularies: Path, tmp_path: Path, arch: str
) -> None:
    path = write_model(tmp_path / "m.gguf", arch)
    profiled = record(path, arch)
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    # Of the embedding one row is looked up; where it is also the output matrix, it is read as that.
    table = sizes.pop("token_embd.weight") if "output.weight" in sizes else 0
    expected = sum(sizes.values()) + DIMS.embd * 2
    mbu = mbu_of(profiled.trace, FakeCeilings())
    assert mbu.weight_bytes == expected, f"without a table of {table} bytes"
    # Steps 1 and 2 attend to 6 and 7 positions of 2 heads of 32 f16 in K and V of each layer.
    assert mbu.kv_bytes == 6.5 * 2 * DIMS.kv_heads * DIMS.head * 2 * DIMS.layers
