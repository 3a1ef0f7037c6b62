"""Live activations of real graphs: to the byte where they can be worked out by hand, within the buffer everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import melt_core as melt
from fakes.tiny_models import ARCHITECTURES, write_model
from melt_core.analysis.liveness import LiveGraph, live_graphs

#: SmolLM2-135M.
EMBD, FF, N_VOCAB, KV_HEADS, HEAD = 576, 1536, 49_152, 3, 64
F32, I32, I64, F16 = 4, 4, 8, 2


def graphs_of(model: Path, n_prompt: int, **options: int) -> dict[str, LiveGraph]:
    with melt.load(model, n_threads=1, **options) as llm:  # type: ignore[arg-type]
        profiler = melt.profile(llm, levels=("tokens", "ops", "memory"))
        profiler.run([1] * n_prompt, max_tokens=3, warmup=0, ignore_eos=True, overhead_budget_s=0)
    with profiler:
        pass
    return {graph.phase: graph for graph in live_graphs(profiler.trace)}


def test_the_demo_models_peaks_as_worked_out_by_hand(demo: Path) -> None:
    graphs = graphs_of(demo, 500, n_ctx=512)
    # Prefill: at the first SwiGLU gate, up and their product are alive beside the residual stream, and of the inputs
    # what later layers need: positions, where K and V go, the mask in f16, and which row of the last layer is wanted.
    n = 500
    inputs = n * I32 + 2 * n * I64 + n * 512 * F16 + I32
    prefill = graphs["prefill"].peak
    assert (prefill.op, prefill.op_type) == ("ffn_swiglu-0", "SWIGLU")
    assert prefill.live_bytes == 3 * n * FF * F32 + n * EMBD * F32 + inputs
    # Decode: the logits, and the normed state they are computed from; no input is needed any more.
    decode = graphs["decode"].peak
    assert (decode.op, decode.live_bytes) == ("result_output", (N_VOCAB + EMBD) * F32)
    # The first ops: the embedding is made of the ids; attention keeps the residual stream beside Q, K and V.
    first, norm, q = graphs["prefill"].ops[:3]
    assert first.live_bytes == inputs + n * I32 + n * EMBD * F32
    assert norm.live_bytes == inputs + 2 * n * EMBD * F32
    assert q.live_bytes == inputs + 3 * n * EMBD * F32
    attention = next(op for op in graphs["prefill"].ops if op.op_type == "FLASH_ATTN_EXT")
    assert attention.live_bytes == inputs + 3 * n * EMBD * F32  # residual, Q, result: K and V are in the cache
    for graph in graphs.values():
        assert graph.compute_bytes == 14_692_384
    assert graphs["prefill"].buffer_ratio == pytest.approx(0.741, abs=0.001)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_graph_needs_more_than_the_buffer_that_holds_it(
    vocabularies: Path, tmp_path: Path, architecture: str
) -> None:
    model = write_model(tmp_path / "model.gguf", architecture)
    graphs = graphs_of(model, 250, n_ctx=256, n_ubatch=256)
    for graph in graphs.values():
        assert all(op.live_bytes > 0 for op in graph.ops)
        assert graph.compute_bytes is not None
        assert graph.peak.live_bytes <= graph.compute_bytes
    # A prefill that fills its graph needs most of the buffer: what is left is alignment, gaps, six tokens.
    assert graphs["prefill"].peak.live_bytes >= 0.5 * (graphs["prefill"].compute_bytes or 0)
    assert graphs["decode"].peak.live_bytes < graphs["prefill"].peak.live_bytes
