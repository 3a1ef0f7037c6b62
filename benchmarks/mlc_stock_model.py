"""A Llama as mlc_llm compiles it for a CPU, without schedules of its own: what bench_mlc_stock.py compares with.

    python mlc_stock_model.py FOLDER LIBRARY    # compiles for the q4f32_1 directory FOLDER

Weights are unpacked, then multiplied (transposed, as MLC's passes do), both as TVM writes loops; attention is TVM's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache

from melt_core.models.mlc.compiler.library import add_metadata, describe
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.quantization import quantization_of

Q = quantization_of("q4f32_1")
GROUP, PER_WORD, MAX_INT = Q.group, Q.per_word, Q.max_int
DTYPE = "float32"


def dequantize(words: Any, scale: Any, n: int, k: int) -> Any:
    """Returns the float32 matrix [n, k] of packed words."""

    def at(i: Any, j: Any) -> Any:
        level = tirx.bitwise_and(
            tirx.shift_right(words[i, j // PER_WORD], (j % PER_WORD * 4).astype("uint32")), tirx.const(15, "uint32")
        )
        return (level.astype(DTYPE) - tirx.const(MAX_INT, DTYPE)) * scale[i, j // GROUP]

    return te.compute((n, k), at, name="dequantize")


class Matrix(nn.Module):
    """A packed weight [n, k]."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.q_weight = nn.Parameter((n, k // PER_WORD), "uint32")
        self.q_scale = nn.Parameter((n, k // GROUP), DTYPE)

    def to(self, dtype: str | None = None) -> None:
        """Keeps its own types."""

    def values(self) -> Any:
        """Returns the matrix in float32."""
        return op.tensor_expr_op(
            lambda words, scale: dequantize(words, scale, self.n, self.k), "dequantize", [self.q_weight, self.q_scale]
        )

    def forward(self, x: Any) -> Any:
        """Returns x times the transposed matrix."""

        def product(x: Any, w: Any) -> Any:
            j = te.reduce_axis((0, self.k), name="j")
            return te.compute(
                (*x.shape[:2], self.n), lambda b, m, n: te.sum(x[b, m, j] * w[n, j], axis=j), name="NT_matmul"
            )

        return op.tensor_expr_op(product, "NT_matmul", [x, self.values()])

    def rows(self, ids: Any) -> Any:
        """Returns the rows of the ids."""
        return op.take(self.values(), ids, axis=0)


class Layer(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        attention = config.num_attention_heads * config.head_dim
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.self_attn = nn.Module()
        self.self_attn.qkv_proj = Matrix(heads * config.head_dim, config.hidden_size)
        self.self_attn.o_proj = Matrix(config.hidden_size, attention)
        self.mlp = nn.Module()
        self.mlp.gate_up_proj = Matrix(2 * config.intermediate_size, config.hidden_size)
        self.mlp.down_proj = Matrix(config.hidden_size, config.intermediate_size)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)

    def forward(self, x: Any, cache: PagedKVCache, number: int) -> Any:
        """Returns the stream after this layer."""
        c = self.config
        batch, n_tokens, _ = x.shape
        heads = c.num_attention_heads + 2 * c.num_key_value_heads
        qkv = op.reshape(self.self_attn.qkv_proj(self.input_layernorm(x)), (batch, n_tokens, heads, c.head_dim))
        mixed = cache.attention_with_fused_qkv(number, qkv, c.num_attention_heads, sm_scale=c.head_dim**-0.5)
        mixed = op.reshape(mixed, (batch, n_tokens, c.num_attention_heads * c.head_dim))
        x = x + self.self_attn.o_proj(mixed)
        gate, up = op.split(self.mlp.gate_up_proj(self.post_attention_layernorm(x)), 2, axis=-1)
        return x + self.mlp.down_proj(op.silu(gate) * up)


class Stack(nn.Module):
    """Everything but the output product."""

    def __init__(self, config: ModelConfig) -> None:
        self.embed_tokens = Matrix(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)


class Model(nn.Module):
    """The functions that MLC's runtime calls."""

    def __init__(self, config: ModelConfig, target: Any) -> None:
        self.config, self.target = config, target
        self.model = Stack(config)

    def embed(self, input_ids: Any) -> Any:
        """[n] -> [n, hidden]."""
        return self.model.embed_tokens.rows(input_ids)

    def prefill(self, input_embed: Any, paged_kv_cache: PagedKVCache) -> Any:
        """Logits of the last token."""

        def last(x: Any) -> Any:
            return te.compute((1, 1, x.shape[2]), lambda i, _, k: x[i, x.shape[1] - 1, k], name="index")

        return self._logits(input_embed, paged_kv_cache, lambda x: op.tensor_expr_op(last, "index", [x]))

    def decode(self, input_embed: Any, paged_kv_cache: PagedKVCache) -> Any:
        """Logits of the one token."""
        return self._logits(input_embed, paged_kv_cache, lambda x: x)

    def _logits(self, x: Any, cache: PagedKVCache, choose: Any) -> Any:
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cache, number)
        return self.model.embed_tokens(self.model.norm(choose(x))), cache

    def create_tir_paged_kv_cache(
        self,
        max_batch_size: tirx.Var,
        max_total_seq_len: tirx.Var,
        prefill_chunk_size: tirx.Var,
        page_size: tirx.Var,
        support_sliding_window: tirx.Var,
    ) -> Any:
        """The cache, with kernels for this model's heads."""
        c = self.config
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=max_batch_size,
            max_total_seq_len=max_total_seq_len,
            prefill_chunk_size=prefill_chunk_size,
            page_size=page_size,
            support_sliding_window=support_sliding_window,
            layer_partition=relax.ShapeExpr([0, c.num_hidden_layers]),
            num_hidden_layers=c.num_hidden_layers,
            num_attention_heads=c.num_attention_heads,
            num_key_value_heads=c.num_key_value_heads,
            qk_head_dim=c.head_dim,
            v_head_dim=c.head_dim,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=int(c.position_embedding_base),
            rope_scaling={},
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=c.head_dim,
            enable_disaggregation=False,
            dtype=DTYPE,
            target=self.target,
        )


def main() -> None:
    """Compiles."""
    folder, library = Path(sys.argv[1]), Path(sys.argv[2])
    config = ModelConfig(**json.loads((folder / "mlc-chat-config.json").read_text())["model_config"])
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with target:
        model = Model(config, target)
        module, params = export(model, config)
        module = add_metadata(module, describe(config, Q, params))
        relax.build(module, target=target).export_library(str(library))


def export(model: Model, config: ModelConfig) -> tuple[Any, list[tuple[str, Any]]]:
    """Returns the module and its parameters by name."""
    cache = nn.spec.Object(object_type=PagedKVCache)
    with_weights = {"$": {"param_mode": "packed", "effect_mode": "none"}}
    sizes = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")
    spec = {
        "embed": {"input_ids": nn.spec.Tensor(["n"], "int32"), **with_weights},
        "prefill": {
            "input_embed": nn.spec.Tensor([1, "n", config.hidden_size], DTYPE),
            "paged_kv_cache": cache,
            **with_weights,
        },
        "decode": {
            "input_embed": nn.spec.Tensor([1, 1, config.hidden_size], DTYPE),
            "paged_kv_cache": cache,
            **with_weights,
        },
        "create_tir_paged_kv_cache": {
            **dict.fromkeys(sizes, int),
            "$": {"param_mode": "none", "effect_mode": "none"},
        },
    }
    module, params, _ = model.export_tvm(spec=nn.spec.ModuleSpec.from_raw(spec, model), allow_extern=True)
    return module, params


if __name__ == "__main__":
    main()
