"""The sizes of a model, as ``mlc-chat-config.json`` names them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

#: What can be converted: names of architectures as Hugging Face and MLC have them.
ARCHITECTURES = ("llama", "mistral", "qwen2", "gemma")


@dataclass(frozen=True)
class ModelConfig:
    """One model. `rope_scaling` is empty, or Llama 3's; `prefill_chunk_size` the most tokens of one evaluation."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    position_embedding_base: float
    context_window_size: int
    tie_word_embeddings: bool
    prefill_chunk_size: int = 2048
    rope_scaling: dict[str, Any] = field(default_factory=dict)

    @property
    def qkv_size(self) -> int:
        """Rows of the fused projection: Q, then K, then V."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim

    @property
    def has_qkv_bias(self) -> bool:
        """Whether a bias is added to Q, K and V."""
        return self.model_type == "qwen2"

    @property
    def activation(self) -> str:
        """What the gate goes through."""
        return "gelu_tanh" if self.model_type == "gemma" else "silu"

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by."""
        return float(self.hidden_size**0.5) if self.model_type == "gemma" else 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns what goes into ``model_config``."""
        return asdict(self)

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Returns the shapes of all matrices by MLC's names without ``.weight``, in the order of the model."""
        h, attention = self.hidden_size, self.num_attention_heads * self.head_dim
        found = {"model.embed_tokens": (self.vocab_size, h)}
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}"
            found |= {
                f"{layer}.self_attn.{self.qkv_name}": (self.qkv_size, h),
                f"{layer}.self_attn.o_proj": (h, attention),
                f"{layer}.mlp.gate_up_proj": (2 * self.intermediate_size, h),
                f"{layer}.mlp.down_proj": (h, self.intermediate_size),
            }
        return found if self.tie_word_embeddings else found | {"lm_head": (self.vocab_size, h)}

    def vectors(self) -> dict[str, int]:
        """Returns the lengths of norms and biases by MLC's names."""
        found = {}
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}"
            if self.has_qkv_bias:
                found[f"{layer}.self_attn.{self.qkv_name}.bias"] = self.qkv_size
            found[f"{layer}.input_layernorm.weight"] = self.hidden_size
            found[f"{layer}.post_attention_layernorm.weight"] = self.hidden_size
        return found | {"model.norm.weight": self.hidden_size}

    @property
    def qkv_name(self) -> str:
        """MLC's name of the fused projection."""
        return "c_attn" if self.model_type == "qwen2" else "qkv_proj"
