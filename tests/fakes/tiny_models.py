"""Writes random-weight GGUF models of a few hundred KB, one for each kind of graph that llama.cpp builds.

The tokenizer is the first `N_VOCAB` tokens of the phi-3 vocabulary (MIT) that llama.cpp's source tree carries: a
SentencePiece vocabulary stays valid when it is cut, as long as its byte tokens are in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType

from melt_core.cache import cache_dir

REPOSITORY = Path(__file__).parents[2]
N_VOCAB = 2048
_FILE_TYPES = {
    TensorType.F32: 0,
    TensorType.F16: 1,
    TensorType.Q4_0: 2,
    TensorType.Q4_1: 3,
    TensorType.Q8_0: 7,
    TensorType.Q5_0: 8,
}
_END_OF_TEXT = 2  # phi-3's own lies beyond the cut


@dataclass(frozen=True)
class Dims:
    """Sizes of a tiny model; experts are only in models that have them."""

    embd: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    ff: int = 256
    vocab: int = N_VOCAB
    ctx_train: int = 512
    experts: int = 4
    experts_used: int = 2
    ff_expert: int = 64
    conv: int = 4
    state: int = 16
    dt_rank: int = 8
    groups: int = 1

    @property
    def head(self) -> int:
        """Values of one head."""
        return self.embd // self.heads

    @property
    def inner(self) -> int:
        """Channels of a state space layer: llama.cpp's mamba takes only twice the embedding."""
        return 2 * self.embd


#: What `write_model` can write: the architecture's name in GGUF, with what is special after a "+".
ARCHITECTURES = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "llama+moe",
    "qwen2moe",
    "olmoe",
    "mamba",
    "mamba2",
    "jamba",
    "falcon-h1",
)


def vocabulary_folder() -> Path | None:
    """Returns the folder of llama.cpp's ggml-vocab-*.gguf files; None if no prepared source tree is there."""
    roots = [Path(os.environ["MELT_LLAMA_CPP_DIR"])] if os.environ.get("MELT_LLAMA_CPP_DIR") else []
    roots.append(REPOSITORY / "build/py/third_party/llama.cpp")
    roots += sorted(cache_dir().glob("third_party/llama.cpp-*"))
    for root in roots:
        if (root / "models/ggml-vocab-phi-3.gguf").is_file():
            return root / "models"
    return None


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, tuple[Any, Any, Any]]:
    """Returns the tokenizer keys: name -> (value, type, element type), cut to N_VOCAB tokens."""
    folder = vocabulary_folder()
    if folder is None:
        raise FileNotFoundError("no prepared llama.cpp source tree: run `make setup`")
    keys = {}
    for field in gguf.GGUFReader(folder / "ggml-vocab-phi-3.gguf").fields.values():
        if not field.name.startswith("tokenizer.") or field.name.endswith("chat_template"):
            continue
        value = field.contents()
        is_list = field.types[0] == gguf.GGUFValueType.ARRAY
        if field.name.endswith("_token_id") and value >= N_VOCAB:
            value = _END_OF_TEXT
        if field.name.endswith("token_type"):
            value[_END_OF_TEXT] = gguf.TokenType.CONTROL  # phi-3's file calls it a user's token
        keys[field.name] = (value[:N_VOCAB] if is_list else value, field.types[0], field.types[-1] if is_list else None)
    return keys


class _Builder:
    """Collects the keys and tensors of one model. Shapes are given as GGUF has them: the fastest axis first."""

    def __init__(
        self, path: Path, architecture: str, dims: Dims, weight_type: TensorType, seed: int, spread: float
    ) -> None:
        self.dims = dims
        self.writer = gguf.GGUFWriter(path, architecture.partition("+")[0])
        self.weight_type = weight_type
        self.random = np.random.default_rng(seed)
        self.spread = spread
        self.writer.add_name("tiny model")  # llama.cpp treats the vocabulary of what is called phi-3 in its own way
        for name, (value, kind, element) in _vocabulary().items():
            self.writer.add_key_value(name, value, kind, sub_type=element)

    def matrix(self, name: str, *shape: int) -> None:
        values = (self.random.standard_normal(shape[::-1]) * self.spread).astype(np.float32)
        raw = gguf.quants.quantize(values, self.weight_type)
        self.writer.add_tensor(f"{name}.weight", raw, raw_dtype=self.weight_type)

    def exact(self, name: str, values: Any) -> None:
        """Adds a tensor that stays F32: norms, biases and what llama.cpp's state space kernels read as they are."""
        self.writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def norm(self, name: str, size: int) -> None:
        self.exact(f"{name}.weight", np.ones(size))

    def bias(self, name: str, size: int) -> None:
        self.exact(f"{name}.bias", self.random.standard_normal(size) * 0.02)

    def attention(self, i: int, *, bias: bool = False, fused: bool = False, norms: int = 0) -> None:
        """Adds the projections; `norms` is the size of the Q and K norms, where there are any."""
        d, block = self.dims, f"blk.{i}."
        kv_size = d.kv_heads * d.head
        if fused:
            self.matrix(block + "attn_qkv", d.embd, d.embd + 2 * kv_size)
        else:
            for part, size in (("q", d.embd), ("k", kv_size), ("v", kv_size)):
                self.matrix(f"{block}attn_{part}", d.embd, size)
                if bias:
                    self.bias(f"{block}attn_{part}", size)
        if norms:
            self.norm(block + "attn_q_norm", norms)
            self.norm(block + "attn_k_norm", norms)
        self.matrix(block + "attn_output", d.embd, d.embd)

    def feed_forward(self, i: int, *, gate_in_up: bool = False) -> None:
        d, block = self.dims, f"blk.{i}."
        if not gate_in_up:
            self.matrix(block + "ffn_gate", d.embd, d.ff)
        self.matrix(block + "ffn_up", d.embd, 2 * d.ff if gate_in_up else d.ff)
        self.matrix(block + "ffn_down", d.ff, d.embd)

    def experts(self, i: int, ff: int, *, shared: bool = False) -> None:
        d, block = self.dims, f"blk.{i}."
        self.exact(block + "ffn_gate_inp.weight", self.random.standard_normal((d.experts, d.embd)))
        self.matrix(block + "ffn_gate_exps", d.embd, ff, d.experts)
        self.matrix(block + "ffn_up_exps", d.embd, ff, d.experts)
        self.matrix(block + "ffn_down_exps", ff, d.embd, d.experts)
        if shared:
            self.exact(block + "ffn_gate_inp_shexp.weight", self.random.standard_normal(d.embd))
            self.matrix(block + "ffn_gate_shexp", d.embd, d.ff)
            self.matrix(block + "ffn_up_shexp", d.embd, d.ff)
            self.matrix(block + "ffn_down_shexp", d.ff, d.embd)

    def mamba(self, i: int, *, norms: bool = False) -> None:
        d, block = self.dims, f"blk.{i}."
        self.matrix(block + "ssm_in", d.embd, 2 * d.inner)
        self.exact(block + "ssm_conv1d.weight", self.random.standard_normal((d.inner, d.conv)) * 0.1)
        self.bias(block + "ssm_conv1d", d.inner)
        self.matrix(block + "ssm_x", d.inner, d.dt_rank + 2 * d.state)
        self.exact(block + "ssm_dt.weight", self.random.standard_normal((d.inner, d.dt_rank)) * 0.1)
        self.bias(block + "ssm_dt", d.inner)
        self.exact(block + "ssm_a", -np.tile(np.arange(1.0, d.state + 1), (d.inner, 1)))  # negative: a decay
        self.exact(block + "ssm_d", np.ones(d.inner))
        self.matrix(block + "ssm_out", d.inner, d.embd)
        if norms:
            self.norm(block + "ssm_dt_norm", d.dt_rank)
            self.norm(block + "ssm_b_norm", d.state)
            self.norm(block + "ssm_c_norm", d.state)

    def mamba2(self, i: int) -> None:
        d, block = self.dims, f"blk.{i}."
        n_heads, channels = d.dt_rank, d.inner + 2 * d.groups * d.state
        self.matrix(block + "ssm_in", d.embd, d.inner + channels + n_heads)
        self.exact(block + "ssm_conv1d.weight", self.random.standard_normal((channels, d.conv)) * 0.1)
        self.bias(block + "ssm_conv1d", channels)
        self.bias(block + "ssm_dt", n_heads)
        self.exact(block + "ssm_a", -np.arange(1.0, n_heads + 1).reshape(n_heads, 1))
        self.exact(block + "ssm_d", np.ones((n_heads, 1)))
        self.exact(block + "ssm_norm.weight", np.ones((d.groups, d.inner // d.groups)))
        self.matrix(block + "ssm_out", d.inner, d.embd)


def write_model(
    path: Path,
    architecture: str = "llama",
    *,
    dims: Dims | None = None,
    weight_type: TensorType = TensorType.F16,
    nan_weights: bool = False,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Writes one of `ARCHITECTURES` and returns its path.

    Args:
        path: The file to write.
        architecture: One of `ARCHITECTURES`.
        dims: Sizes; by default those of `Dims`.
        weight_type: Of the matrices; norms, biases and state space parameters stay F32.
        nan_weights: Whether one norm holds NaN.
        seed: Of the weights.
        spread: Standard deviation of the matrices; with 0.02, attention hardly prefers one token to another.
    """
    d = dims or Dims()
    if architecture == "olmoe":
        d = replace(d, kv_heads=d.heads)  # its K norm is as wide as the embedding
    b = _Builder(path, architecture, d, weight_type, seed, spread)
    _add_hyperparameters(b, architecture)
    b.matrix("token_embd", d.embd, d.vocab)
    b.exact("output_norm.weight", np.full(d.embd, np.nan if nan_weights else 1.0))
    if architecture in ("qwen2moe", "olmoe", "phi3"):
        b.matrix("output", d.embd, d.vocab)
    for i in range(d.layers):
        b.norm(f"blk.{i}.attn_norm", d.embd)
        _add_block(b, architecture, i)
    b.writer.write_header_to_file()
    b.writer.write_kv_data_to_file()
    b.writer.write_tensors_to_file()
    b.writer.close()
    return path


def is_recurrent_layer(architecture: str, layer: int) -> bool:
    """Tells whether a layer of a tiny model has a state space part; falcon-h1's layers have attention beside it."""
    return architecture in ("mamba", "mamba2", "falcon-h1") or (architecture == "jamba" and layer % 2 == 0)


def _add_hyperparameters(b: _Builder, architecture: str) -> None:
    d, w = b.dims, b.writer
    w.add_context_length(d.ctx_train)
    w.add_embedding_length(d.embd)
    w.add_block_count(d.layers)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(d.vocab)
    w.add_file_type(_FILE_TYPES[b.weight_type])
    recurrent = architecture in ("mamba", "mamba2")
    w.add_feed_forward_length(0 if recurrent else d.ff)
    w.add_head_count(0 if recurrent else d.heads)
    if architecture == "jamba":  # per layer: 0 says that it is a state space layer
        w.add_head_count_kv([0 if is_recurrent_layer("jamba", i) else d.kv_heads for i in range(d.layers)])
    elif not recurrent:
        w.add_head_count_kv(d.kv_heads)
        w.add_rope_dimension_count(d.head)
        w.add_rope_freq_base(10000.0)
    if recurrent or architecture in ("jamba", "falcon-h1"):
        w.add_ssm_conv_kernel(d.conv)
        w.add_ssm_inner_size(d.inner)
        w.add_ssm_state_size(d.state)
        w.add_ssm_time_step_rank(d.dt_rank)
        w.add_ssm_group_count(d.groups)
    if architecture in ("llama+moe", "qwen2moe", "olmoe"):
        w.add_expert_count(d.experts)
        w.add_expert_used_count(d.experts_used)
    if architecture == "qwen2moe":
        w.add_expert_feed_forward_length(d.ff_expert)
        w.add_expert_shared_feed_forward_length(d.ff)
    if architecture in ("gemma2", "gemma3"):
        w.add_key_length(d.head)
        w.add_value_length(d.head)
        w.add_sliding_window(64)
    if architecture == "gemma2":
        w.add_attn_logit_softcapping(50.0)
        w.add_final_logit_softcapping(30.0)


def _add_block(b: _Builder, architecture: str, i: int) -> None:
    d, block = b.dims, f"blk.{i}."
    if architecture == "mamba":
        return b.mamba(i)
    if architecture == "mamba2":
        return b.mamba2(i)
    if architecture == "jamba" and is_recurrent_layer("jamba", i):
        b.mamba(i, norms=True)
    else:
        norms = {"qwen3": d.head, "gemma3": d.head, "olmoe": d.embd}.get(architecture, 0)
        b.attention(i, bias=architecture in ("qwen2", "qwen2moe"), fused=architecture == "phi3", norms=norms)
    if architecture == "falcon-h1":
        b.mamba2(i)
        b.exact(block + "ffn_norm", np.ones(d.embd))  # the one norm whose name has no ".weight"
    else:
        b.norm(block + "ffn_norm", d.embd)
    if architecture in ("gemma2", "gemma3"):
        b.norm(block + "post_attention_norm", d.embd)
        b.norm(block + "post_ffw_norm", d.embd)
    if architecture in ("llama+moe", "olmoe"):
        return b.experts(i, d.ff)
    if architecture == "qwen2moe":
        return b.experts(i, d.ff_expert, shared=True)
    return b.feed_forward(i, gate_in_up=architecture == "phi3")
