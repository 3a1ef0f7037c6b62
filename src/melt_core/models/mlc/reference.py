"""The models in NumPy float32: what a compiled library is compared with.

Weights are asked for by MLC's names, a layer at a time, so that a model of any size can be evaluated; attention keeps K
and V of the tokens before, so that a long run takes one pass over each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.source import FloatArray


class Reference:
    """Evaluates token after token."""

    def __init__(self, config: ModelConfig, parameter: Callable[[str], FloatArray]) -> None:
        """Takes the sizes, and what gives an unquantised parameter by its name."""
        self.config, self._parameter = config, parameter
        self.rates = frequencies(config)
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        empty = np.zeros((0, self.config.num_key_value_heads, self.config.head_dim), np.float32)
        self._cache = [(empty, empty) for _ in range(self.config.num_hidden_layers)]

    def evaluate(self, ids: Sequence[int], n_last: int = 1) -> FloatArray:
        """Returns the logits [n_last, vocabulary] of the last of these tokens, which follow those before."""
        c = self.config
        table = self._parameter("model.embed_tokens.weight")
        x = table[list(ids)] * np.float32(c.embedding_scale)
        first = len(self._cache[0][0])
        for i in range(c.num_hidden_layers):
            layer = f"model.layers.{i}."
            x = x + self._attention(i, self._norm(x, layer + "input_layernorm.weight"), first)
            up = (
                self._norm(x, layer + "post_attention_layernorm.weight")
                @ self._parameter(layer + "mlp.gate_up_proj.weight").T
            )
            gate, value = np.split(up, 2, axis=-1)
            x = x + (_activated(gate, c.activation) * value) @ self._parameter(layer + "mlp.down_proj.weight").T
        last = self._norm(x[-n_last:], "model.norm.weight")
        logits: FloatArray = last @ (table if c.tie_word_embeddings else self._parameter("lm_head.weight")).T
        return logits

    def greedy(self, prompt: Sequence[int], n: int) -> tuple[list[int], list[FloatArray]]:
        """Returns `n` tokens after the prompt, each of the highest logit, and the logits that they were chosen by."""
        self.reset()
        logits = [self.evaluate(prompt)[0]]
        tokens = [int(logits[-1].argmax())]
        while len(tokens) < n:
            logits.append(self.evaluate(tokens[-1:])[0])
            tokens.append(int(logits[-1].argmax()))
        return tokens, logits

    def _norm(self, x: FloatArray, name: str) -> FloatArray:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.config.rms_norm_eps))
        normed: FloatArray = x / scale * self._parameter(name)
        return normed

    def _rotated(self, x: FloatArray, first: int) -> FloatArray:
        angles = (first + np.arange(len(x)))[:, None].astype(np.float32) * self.rates
        cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        half = self.config.head_dim // 2
        turned = x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin
        rotated: FloatArray = turned.astype(np.float32)
        return rotated

    def _attention(self, i: int, x: FloatArray, first: int) -> FloatArray:
        c = self.config
        layer = f"model.layers.{i}.self_attn."
        qkv = x @ self._parameter(f"{layer}{c.qkv_name}.weight").T
        if c.has_qkv_bias:
            qkv = qkv + self._parameter(f"{layer}{c.qkv_name}.bias")
        parts = [c.num_attention_heads, c.num_attention_heads + c.num_key_value_heads]
        q, k, v = np.split(qkv.reshape(len(x), -1, c.head_dim), parts, axis=1)
        q, k = self._rotated(q, first), self._rotated(k, first)
        before = self._cache[i]
        keys, values = np.concatenate([before[0], k]), np.concatenate([before[1], v])
        self._cache[i] = (keys, values)
        repeat = c.num_attention_heads // c.num_key_value_heads
        scores = np.einsum("qhd,khd->hqk", q, keys.repeat(repeat, 1)) / np.float32(np.sqrt(c.head_dim))
        allowed = np.arange(len(keys))[None, :] <= first + np.arange(len(x))[:, None]
        scores = np.where(allowed, scores, np.float32(-1e30))
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", share, values.repeat(repeat, 1)).reshape(len(x), -1)
        out: FloatArray = mixed @ self._parameter(layer + "o_proj.weight").T
        return out


def frequencies(config: ModelConfig) -> FloatArray:
    """Returns the radians that each pair of values turns by from one position to the next."""
    rates = 1.0 / config.position_embedding_base ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling:  # Llama 3.1: long wavelengths are stretched, short ones kept
        turns = scaling["original_max_position_embeddings"] * rates / (2 * np.pi)
        span = scaling["high_freq_factor"] - scaling["low_freq_factor"]
        share = np.clip((turns - scaling["low_freq_factor"]) / span, 0, 1)
        rates = rates * ((1 - share) / scaling["factor"] + share)
    found: FloatArray = rates.astype(np.float32)
    return found


def _activated(x: FloatArray, activation: str) -> FloatArray:
    values: FloatArray
    if activation == "silu":
        values = x / (1 + np.exp(-x))
    else:
        inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
        values = np.float32(0.5) * x * (1 + np.tanh(inner))
    return values
