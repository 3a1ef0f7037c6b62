"""GGUF files as the source of a conversion, read and unpacked by the package ``gguf``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from melt_core.errors import ModelError
from melt_core.models.mlc.chat import conversation_template
from melt_core.models.mlc.config import ARCHITECTURES, ModelConfig
from melt_core.models.mlc.gguf_header import GgufHeader
from melt_core.models.mlc.source import Chat, FloatArray, Part, Source

#: MLC's last parts of a name in a layer -> GGUF's.
_IN_LAYER = {
    "self_attn.o_proj.weight": ("attn_output.weight",),
    "mlp.gate_up_proj.weight": ("ffn_gate.weight", "ffn_up.weight"),
    "mlp.down_proj.weight": ("ffn_down.weight",),
    "input_layernorm.weight": ("attn_norm.weight",),
    "post_attention_layernorm.weight": ("ffn_norm.weight",),
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class GgufSource(Source):
    """A GGUF file. Tensors are unpacked when they are asked for."""

    def __init__(self, path: Path, prefill_chunk_size: int) -> None:
        """Reads the header.

        Raises:
            MissingExtraError: The package ``gguf`` is not installed.
            ModelError: The file is damaged, or of an architecture that cannot be converted.
        """
        self._header = GgufHeader(path)
        self.key = self._header.key
        self._tensors = {tensor.name: tensor for tensor in self._header.tensors}
        super().__init__(path, self._read_config(path, prefill_chunk_size), self._read_chat())

    def _read_config(self, path: Path, prefill_chunk_size: int) -> ModelConfig:
        architecture = self.key("general.architecture")
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ModelError(f"{path} is of the architecture {architecture}: only {known} can be converted for MLC")

        def needed(name: str, default: Any = None) -> Any:
            value = self.key(f"{architecture}.{name}", default)
            if value is None:
                raise ModelError(f"{path} lacks the key {architecture}.{name}")
            return value

        if self.key(f"{architecture}.expert_count"):
            raise ModelError(f"{path} has experts: only dense models can be converted for MLC")
        n_heads, size = int(needed("attention.head_count")), int(needed("embedding_length"))
        context = int(needed("context_length"))
        if (
            self.key(f"{architecture}.rope.scaling.type", "none") not in ("none", "")
            or "rope_freqs.weight" in self._tensors
        ):
            raise ModelError(f"{path} stretches its positions: convert it from the original (safetensors)")
        embeddings = self._tensors.get("token_embd.weight")
        if embeddings is None:
            raise ModelError(f"{path} lacks the tensor token_embd.weight")
        return ModelConfig(
            model_type=architecture,
            hidden_size=size,
            intermediate_size=int(needed("feed_forward_length")),
            num_hidden_layers=int(needed("block_count")),
            num_attention_heads=n_heads,
            num_key_value_heads=int(needed("attention.head_count_kv", n_heads)),
            head_dim=int(needed("attention.key_length", size // n_heads)),
            vocab_size=int(embeddings.shape[-1]),
            rms_norm_eps=float(needed("attention.layer_norm_rms_epsilon")),
            position_embedding_base=float(needed("rope.freq_base", 10000.0)),
            context_window_size=context,
            tie_word_embeddings="output.weight" not in self._tensors,
            prefill_chunk_size=min(prefill_chunk_size, context),
        )

    def _read_chat(self) -> Chat:
        eos = self.key("tokenizer.ggml.eos_token_id")
        stops = () if eos is None else (int(eos),)
        template = conversation_template(self.key("tokenizer.chat_template"), stops)
        return Chat(bos=self.key("tokenizer.ggml.bos_token_id"), eos=stops, template=template)

    def tensor(self, name: str) -> FloatArray:
        """See the base class."""
        found = self._tensors.get(name)
        if found is None:
            raise ModelError(f"{self.path} lacks the tensor {name}")
        try:
            values = self._header.dequantize(found.data, found.tensor_type)
        except Exception as error:  # of any class, as above
            raise ModelError(f"{self.path}: the tensor {name} cannot be unpacked: {error}") from error
        shape = [int(extent) for extent in reversed(found.shape)]
        unpacked: FloatArray = np.asarray(values, np.float32).reshape(shape)
        return unpacked

    def part_of(self, name: str) -> Part:
        """See the base class."""
        if name in _OUTSIDE:
            return Part((_OUTSIDE[name],))
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        assert match is not None, name
        block, rest = f"blk.{match[1]}.", match[2]
        if rest in _IN_LAYER:
            return Part(tuple(block + each for each in _IN_LAYER[rest]))
        kind = rest.rpartition(".")[2]
        c = self.config
        # llama.cpp rotates neighbours for these: its converter has moved the rows of Q and K.
        moved = c.model_type in ("llama", "mistral")
        heads = (c.num_attention_heads, c.num_key_value_heads, 0) if moved else ()
        return Part(tuple(f"{block}attn_{which}.{kind}" for which in "qkv"), heads)

    def write_tokenizer(self, folder: Path) -> list[str]:
        """See the base class."""
        from melt_core.models.mlc.gguf_tokenizer import write_tokenizer

        return write_tokenizer(self._header, folder)
