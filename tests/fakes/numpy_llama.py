"""The Llama of an MLC model directory in NumPy float32: what its compiled library must agree with.

Reads q0f32 directories; attention keeps K and V of the tokens before, so that a long run takes one pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class NumpyLlama:
    """Evaluates token after token. Position embedding: rotation of the two halves of a head."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "mlc-chat-config.json").read_text())["model_config"]
        self.n_heads = config["num_attention_heads"]
        self.n_kv = config["num_key_value_heads"]
        self.size = config.get("head_dim") or config["hidden_size"] // self.n_heads
        self.n_layers = config["num_hidden_layers"]
        self.eps = config["rms_norm_eps"]
        base = config.get("position_embedding_base") or config["rope_theta"]
        self.rates = (1.0 / base ** (np.arange(0, self.size, 2) / self.size)).astype(np.float32)
        self.weights = read_parameters(folder)
        self.cache: list[tuple[np.ndarray, np.ndarray]] = []

    def reset(self) -> None:
        """Forgets all tokens."""
        empty = np.zeros((0, self.n_kv, self.size), np.float32)
        self.cache = [(empty, empty) for _ in range(self.n_layers)]

    def evaluate(self, ids: list[int]) -> np.ndarray:
        """Returns the logits of the last of these tokens, which follow those before."""
        w = self.weights
        x = w["model.embed_tokens.weight"][ids]
        first = len(self.cache[0][0])
        for i in range(self.n_layers):
            layer = f"model.layers.{i}."
            x = x + self._attention(i, self._norm(x, layer + "input_layernorm.weight"), first)
            up = self._norm(x, layer + "post_attention_layernorm.weight") @ w[layer + "mlp.gate_up_proj.weight"].T
            gate, value = np.split(up, 2, axis=-1)
            x = x + (gate / (1 + np.exp(-gate)) * value) @ w[layer + "mlp.down_proj.weight"].T
        last = self._norm(x[-1:], "model.norm.weight")[0]
        logits: np.ndarray = w.get("lm_head.weight", w["model.embed_tokens.weight"]) @ last
        return logits

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scaled: np.ndarray = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps)) * self.weights[name]
        return scaled

    def _rotated(self, x: np.ndarray, first: int) -> np.ndarray:
        angles = (first + np.arange(len(x)))[:, None].astype(np.float32) * self.rates
        cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        half = self.size // 2
        turned: np.ndarray = x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin
        return turned.astype(np.float32)

    def _attention(self, i: int, x: np.ndarray, first: int) -> np.ndarray:
        layer = f"model.layers.{i}.self_attn."
        qkv = (x @ self.weights[layer + "qkv_proj.weight"].T).reshape(len(x), -1, self.size)
        q, k, v = np.split(qkv, [self.n_heads, self.n_heads + self.n_kv], axis=1)
        q, k = self._rotated(q, first), self._rotated(k, first)
        before = self.cache[i]
        keys, values = np.concatenate([before[0], k]), np.concatenate([before[1], v])
        self.cache[i] = (keys, values)
        repeat = self.n_heads // self.n_kv
        scores = np.einsum("qhd,khd->hqk", q, keys.repeat(repeat, 1)) / np.float32(np.sqrt(self.size))
        allowed = np.arange(len(keys))[None, :] <= first + np.arange(len(x))[:, None]
        scores = np.where(allowed, scores, np.float32(-1e30))
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", share, values.repeat(repeat, 1)).reshape(len(x), -1)
        out: np.ndarray = mixed @ self.weights[layer + "o_proj.weight"].T
        return out


def read_parameters(folder: Path) -> dict[str, np.ndarray]:
    """Returns the float32 parameters of a directory by name."""
    names = [folder / name for name in ("tensor-cache.json", "ndarray-cache.json")]
    cache = json.loads(next(path for path in names if path.exists()).read_text())
    found = {}
    for shard in cache["records"]:
        data = (folder / shard["dataPath"]).read_bytes()
        for record in shard["records"]:
            raw = data[record["byteOffset"] : record["byteOffset"] + record["nbytes"]]
            if record["format"] == "f32-to-bf16":
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, record["dtype"])
            found[record["name"]] = values.reshape(record["shape"])
    return found


def greedy(model: NumpyLlama, prompt: list[int], n: int) -> tuple[list[int], list[np.ndarray]]:
    """Returns `n` tokens after the prompt, each of the highest logit, and the logits that they were chosen by."""
    model.reset()
    logits = [model.evaluate(prompt)]
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < n:
        logits.append(model.evaluate(tokens[-1:]))
        tokens.append(int(logits[-1].argmax()))
    return tokens, logits
