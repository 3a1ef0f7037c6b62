"""The model in TVM's nn frontend, in the shape of MLC's libraries: embed, prefill, decode and the KV cache.

Between the functions' ends everything is [tokens, size]; each product also adds what follows it (a bias, the stream).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm import kv_cache as stock  # names with _ too: MLC's own users take them from there
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache

from melt_core.models.mlc.compiler import attention, elementwise
from melt_core.models.mlc.compiler.gemm import gemm
from melt_core.models.mlc.compiler.gemv import gemv
from melt_core.models.mlc.compiler.product import Product
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.quantization import Quantization
from melt_core.models.mlc.targets import Machine


class Build:
    """What all parts of a model need to make their kernels, each made once."""

    def __init__(self, config: ModelConfig, quantization: Quantization, machine: Machine) -> None:
        self.config, self.q, self.machine = config, quantization, machine
        self.heads = attention.Heads(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, quantization.dtype
        )
        self._kernels: dict[Any, Any] = {}

    def kernel(self, key: Any, make: Any) -> Any:
        """Returns the kernel of a key, made when first asked for."""
        if key not in self._kernels:
            self._kernels[key] = make()
        return self._kernels[key]


def is_one_token(x: Tensor) -> bool:
    """Tells whether the number of tokens is known to be 1."""
    return not isinstance(x.shape[0], tirx.Var) and int(x.shape[0]) == 1


class Matrix(nn.Module):  # type: ignore[misc]
    """A weight [n, k], packed or not."""

    def __init__(self, build: Build, n: int, k: int, bias: bool = False) -> None:
        self.n, self.k, q = n, k, build.q
        self._build = build
        if q.bits:
            self.q_weight = nn.Parameter((n, q.n_words(k)), "uint32")
            self.q_scale = nn.Parameter((n, q.n_groups(k)), q.dtype)
        else:
            self.weight = nn.Parameter((n, k), q.dtype)
        self.bias = nn.Parameter((n,), q.dtype) if bias else None

    def to(self, dtype: str | None = None) -> None:
        """Keeps its own types."""

    def weights(self) -> list[Tensor]:
        """Returns the tensors of the weight."""
        return [self.q_weight, self.q_scale] if self._build.q.bits else [self.weight]

    def forward(
        self, x: Tensor, *, stream: Tensor | None = None, y_tail: Sequence[int] = (), out_dtype: str = ""
    ) -> Tensor:
        """Returns x W^T, with the bias and `stream` added, as [tokens, *y_tail]."""
        b = self._build
        added = [each for each in (self.bias, stream) if each is not None]
        shapes = [(self.n,)] * (self.bias is not None) + [("m", self.n)] * (stream is not None)
        tail, out = tuple(y_tail) or (self.n,), out_dtype or b.q.dtype
        product = Product(self.n, self.k, b.q, out, tail, shapes)
        make, kind = (gemv, "gemv") if is_one_token(x) else (gemm, "gemm")
        name = f"{b.q.name.partition('f')[0] + '_' if b.q.bits else ''}NT_{kind}{'_add' * len(added)}_{self.n}x{self.k}"
        function = b.kernel((kind, product.key), lambda: make(product, b.machine))
        result = Tensor.placeholder((x.shape[0], *tail), out)
        return op.tensor_ir_op(function, name, [x, *self.weights(), *added], result)

    def rows(self, ids: Tensor) -> Tensor:
        """Returns the rows of the ids."""
        b = self._build
        make = lambda: elementwise.take(self.n, self.k, b.q, b.config.embedding_scale)  # noqa: E731
        name = "dequantize_take" if b.q.bits else "take"
        result = Tensor.placeholder((ids.shape[0], self.k), b.q.dtype)
        return op.tensor_ir_op(b.kernel("take", make), name, [*self.weights(), ids], result)


class Norm(nn.Module):  # type: ignore[misc]
    """RMS norm, with a weight."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self.weight = nn.Parameter((build.config.hidden_size,), build.q.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normed rows."""
        b, one = self._build, is_one_token(x)
        c = b.config
        make = lambda: elementwise.rms_norm(c.hidden_size, b.q.dtype, c.rms_norm_eps, b.machine, one)  # noqa: E731
        return op.tensor_ir_op(
            b.kernel(("norm", one), make), "rms_norm", [x, self.weight], Tensor.placeholder(x.shape, b.q.dtype)
        )


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward."""

    def __init__(self, build: Build) -> None:
        c = build.config
        self._build = build
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        setattr(self.self_attn, c.qkv_name, Matrix(build, c.qkv_size, c.hidden_size, bias=c.has_qkv_bias))
        self.self_attn.o_proj = Matrix(build, c.hidden_size, c.num_attention_heads * c.head_dim)
        self.mlp.gate_up_proj = Matrix(build, 2 * c.intermediate_size, c.hidden_size)
        self.mlp.down_proj = Matrix(build, c.hidden_size, c.intermediate_size)
        self.input_layernorm, self.post_attention_layernorm = Norm(build), Norm(build)

    def forward(self, x: Tensor, cache: PagedKVCache, number: int) -> Tensor:
        """Returns the stream after this layer."""
        b, c = self._build, self._build.config
        project = getattr(self.self_attn, c.qkv_name)
        qkv = project(self.input_layernorm(x), y_tail=(c.qkv_size // c.head_dim, c.head_dim))
        mixed = _attend(cache, number, qkv, c)
        x = self.self_attn.o_proj(mixed, stream=x)
        up = self.mlp.gate_up_proj(self.post_attention_layernorm(x))
        one = is_one_token(x)
        make = lambda: elementwise.gated(c.intermediate_size, b.q.dtype, c.activation, b.machine, one)  # noqa: E731
        result = Tensor.placeholder((x.shape[0], c.intermediate_size), b.q.dtype)
        gate = op.tensor_ir_op(b.kernel(("gated", one), make), f"split_{c.activation}_multiply", [up], result)
        return self.mlp.down_proj(gate, stream=x)


def _attend(cache: PagedKVCache, layer: int, qkv: Tensor, c: ModelConfig) -> Tensor:
    """Returns attention over the cache as [tokens, heads * size]; the frontend's own function reshapes more often."""
    out = relax.TensorType((qkv.shape[0], c.num_attention_heads, c.head_dim), qkv.dtype)
    arguments = [cache._expr, relax.prim_value(layer), relax.prim_value(c.head_dim**-0.5), qkv._expr]
    call = relax.call_dps_packed("vm.builtin.attention_kv_cache_attention_with_fused_qkv", arguments, out_ty=out)
    mixed = Tensor(_expr=relax.BlockBuilder.current().emit(call))
    return op.reshape(mixed, (qkv.shape[0], c.num_attention_heads * c.head_dim))


class Stack(nn.Module):  # type: ignore[misc]
    """Everything but the output product."""

    def __init__(self, build: Build) -> None:
        c = build.config
        self.embed_tokens = Matrix(build, c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([Layer(build) for _ in range(c.num_hidden_layers)])
        self.norm = Norm(build)


class Model(nn.Module):  # type: ignore[misc]
    """The functions that MLC's runtime calls."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self.model = Stack(build)
        if not build.config.tie_word_embeddings:
            self.lm_head = Matrix(build, build.config.vocab_size, build.config.hidden_size)

    def embed(self, input_ids: Tensor) -> Tensor:
        """[n] -> [n, hidden]."""
        return self.model.embed_tokens.rows(input_ids)

    def prefill(self, input_embed: Tensor, paged_kv_cache: PagedKVCache) -> Any:
        """Logits [1, 1, vocabulary] of the last token."""
        return self._logits(input_embed, paged_kv_cache)

    def decode(self, input_embed: Tensor, paged_kv_cache: PagedKVCache) -> Any:
        """Logits [1, 1, vocabulary] of the one token."""
        return self._logits(input_embed, paged_kv_cache)

    def _logits(self, x: Tensor, cache: PagedKVCache) -> Any:
        b, c = self._build, self._build.config
        x = op.reshape(x, (x.shape[1], c.hidden_size))
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cache, number)
        if not is_one_token(x):
            function = b.kernel("index", lambda: elementwise.last_row(c.hidden_size, b.q.dtype))
            x = op.tensor_ir_op(function, "index", [x], Tensor.placeholder((1, c.hidden_size), b.q.dtype))
        head = self.model.embed_tokens if c.tie_word_embeddings else self.lm_head
        return head(self.model.norm(x), y_tail=(1, c.vocab_size), out_dtype="float32"), cache

    def create_tir_paged_kv_cache(
        self,
        max_batch_size: tirx.Var,
        max_total_seq_len: tirx.Var,
        prefill_chunk_size: tirx.Var,
        page_size: tirx.Var,
        support_sliding_window: tirx.Var,
    ) -> Any:
        """The cache, with kernels for this model's heads."""
        sizes = [max_batch_size, max_total_seq_len, prefill_chunk_size, page_size, support_sliding_window]
        return _paged_cache(self._build, sizes)


def _paged_cache(b: Build, sizes: list[Any]) -> PagedKVCache:
    """The arguments are those of TIRPagedKVCache for the CPU, with our kernels where a run comes by."""
    builder, c, h = relax.BlockBuilder.current(), b.config, b.heads
    number = relax.prim_value

    def own(function: Any, name: str) -> Any:
        return builder.add_func(function, name)

    def tagged(function: Any, name: str) -> Any:
        return relax.Tuple([tvm.ir.StringImm("tirx"), own(function, name)])

    def tree(function: Any, name: str) -> Any:
        return tagged(function(h.n_kv, h.n_q, h.size, h.dtype, {}), name)

    decode, paged = attention.decode_paged(h, b.machine), attention.prefill_paged(h, b.machine)
    call = relax.call_pure_packed(
        "vm.builtin.paged_attention_kv_cache_create",
        relax.ShapeExpr([*sizes, 1024]),
        relax.ShapeExpr([0, c.num_hidden_layers]),
        *(number(value) for value in (h.n_q, h.n_kv, h.size, h.size)),
        relax.ShapeExpr([int(stock.AttnKind.MHA)] * c.num_hidden_layers),
        number(False),
        number(stock.RopeMode.NORMAL),
        number(1),
        number(int(c.position_embedding_base)),
        number(0),
        relax.op.zeros((), h.dtype),
        own(attention.append(h), "tir_kv_cache_transpose_append"),
        own(stock._kv_cache_transpose_append_mla(h.size, h.dtype), "kv_cache_transpose_append_mla"),
        tagged(attention.prefill_ragged(h, b.machine), "batch_prefill_ragged_kv"),
        tagged(paged, "batch_prefill_paged_kv"),
        tagged(decode, "batch_decode_paged_kv"),
        # Never called: there is no sliding window, no tree of drafts, and one sequence without forks.
        tagged(paged, "batch_prefill_paged_kv_sliding_window"),
        tagged(decode, "batch_decode_paged_kv_sliding_window"),
        tree(stock.tree_attn_cpu, "tree_attn"),
        tree(stock.tree_attn_with_paged_kv_cache_cpu, "tree_attn_paged_kv"),
        relax.Tuple([]),
        relax.Tuple([own(stock._merge_state_inplace_cpu(h.dtype), "merge_state_inplace")]),
        own(attention.rope(h, _frequency(c), b.machine), "fused_rope"),
        own(stock._copy_single_page_cpu(h.n_kv, sizes[3], h.size, h.dtype), "copy_single_page"),
        own(stock._kv_cache_debug_get_kv(c.num_hidden_layers, h.n_kv, h.size, h.dtype), "kv_cache_debug_get_kv"),
        own(stock._compact_kv_copy_cpu(h.n_kv, h.size, h.dtype), "compact_kv_copy"),
        ty_args=relax.AnyType(),
    )
    return PagedKVCache(_expr=call, _name="paged_kv_cache")


def _frequency(c: ModelConfig) -> Any:
    """Returns the function from a pair's number to its radians for each position."""
    step = -2.0 * math.log2(c.position_embedding_base) / c.head_dim

    def plain(i: Any) -> Any:
        return tirx.exp2(tirx.Cast("float32", i) * tirx.const(step, "float32"))

    scaling = c.rope_scaling
    if not scaling:
        return plain
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    trained = scaling["original_max_position_embeddings"]

    def llama3(i: Any) -> Any:
        """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, between them a mixture."""
        frequency = plain(i)
        turns = frequency * tirx.const(trained / (2 * math.pi), "float32")
        share = (turns - tirx.const(low, "float32")) * tirx.const(1 / (high - low), "float32")
        share = tirx.max(tirx.const(0.0, "float32"), tirx.min(tirx.const(1.0, "float32"), share))
        one = tirx.const(1.0, "float32")
        return frequency * ((one - share) * tirx.const(1 / factor, "float32") + share)

    return llama3


def export(config: ModelConfig, quantization: Quantization, machine: Machine) -> tuple[Any, list[tuple[str, Any]]]:
    """Returns the module and the parameters by name, in the order that its functions take them."""
    model = Model(Build(config, quantization, machine))
    cache = nn.spec.Object(object_type=PagedKVCache)
    packed = {"$": {"param_mode": "packed", "effect_mode": "none"}}
    sizes = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")
    dtype, size = quantization.dtype, config.hidden_size
    spec = {
        "embed": {"input_ids": nn.spec.Tensor(["n"], "int32"), **packed},
        "prefill": {"input_embed": nn.spec.Tensor([1, "n", size], dtype), "paged_kv_cache": cache, **packed},
        "decode": {"input_embed": nn.spec.Tensor([1, 1, size], dtype), "paged_kv_cache": cache, **packed},
        "create_tir_paged_kv_cache": {**dict.fromkeys(sizes, int), "$": {"param_mode": "none", "effect_mode": "none"}},
    }
    module, params, _ = model.export_tvm(spec=nn.spec.ModuleSpec.from_raw(spec, model), allow_extern=True)
    return module, params
