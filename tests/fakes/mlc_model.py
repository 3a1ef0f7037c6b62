"""Tiny models with random weights: directories of Hugging Face, and MLC's, which are converted from them.

python mlc_model.py FOLDER opencl              # a library for a GPU only, which no wheel of TVM can run
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, FF, HEADS, KV_HEADS, HEAD, N_LAYERS, VOCABULARY = 64, 96, 4, 2, 16, 2, 320
CHUNK = 128

_CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": FF,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": N_LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
}

_TEMPLATE = {
    "name": "toy",
    "system_template": "<s>{system_message}",
    "system_message": "Be brief.",
    "roles": {"user": "<user>", "assistant": "<bot>"},
    "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
    "seps": ["</s>"],
    "role_content_sep": ":",
    "role_empty_sep": ":",
    "stop_token_ids": [2],
}


def write_source(
    folder: Path, architecture: str = "llama", *, seed: int = 1, dtype: str = "F32", **config: Any
) -> Path:
    """Writes ``config.json`` and ``model.safetensors`` of a tiny model and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = _CONFIG | {"model_type": architecture} | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    write_safetensors(folder / "model.safetensors", tensors(values, seed), dtype)
    return folder


def tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Returns random float32 tensors by Hugging Face's names."""
    draw = np.random.default_rng(seed)
    size, ff = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or size // config["num_attention_heads"]
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"], "v": config["num_key_value_heads"]}
    gemma = config["model_type"] == "gemma"

    def matrix(n: int, k: int) -> np.ndarray:
        return (draw.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

    def norm() -> np.ndarray:  # gemma stores what is added to 1
        return ((0 if gemma else 1) + 0.1 * draw.standard_normal(size)).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(config["vocab_size"], size)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for part, n in heads.items():
            found[f"{layer}.self_attn.{part}_proj.weight"] = matrix(n * head, size)
            if config["model_type"] == "qwen2":
                found[f"{layer}.self_attn.{part}_proj.bias"] = draw.standard_normal(n * head).astype(np.float32)
        found |= {
            f"{layer}.self_attn.o_proj.weight": matrix(size, heads["q"] * head),
            f"{layer}.mlp.gate_proj.weight": matrix(ff, size),
            f"{layer}.mlp.up_proj.weight": matrix(ff, size),
            f"{layer}.mlp.down_proj.weight": matrix(size, ff),
            f"{layer}.input_layernorm.weight": norm(),
            f"{layer}.post_attention_layernorm.weight": norm(),
        }
    found["model.norm.weight"] = norm()
    if config.get("tie_word_embeddings") is False:
        found["lm_head.weight"] = matrix(config["vocab_size"], size)
    return found


def write_safetensors(path: Path, values: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """Writes tensors in F32, F16 or BF16."""
    header, data = {}, b""
    for name, value in values.items():
        raw = {
            "F32": lambda v: v,
            "F16": lambda v: v.astype(np.float16),
            "BF16": rounded_to_bf16,
        }[dtype](value).tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def rounded_to_bf16(values: np.ndarray) -> np.ndarray:
    """Returns the upper halves of float32 values, rounded to nearest."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_mlc_model(folder: Path, quantization: str) -> None:
    """Converts the tiny Llama; gives it a template of its own, and weights in two shards, of both formats of MLC."""
    from melt_core.models.mlc.convert import convert

    source = write_source(folder.parent / f"{folder.name}-source")
    convert(source, folder, quantization=quantization, prefill_chunk_size=CHUNK)
    path = folder / "mlc-chat-config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conv_template": _TEMPLATE}))
    _split_shard(folder, halve=quantization != "q0f32")


def _split_shard(folder: Path, *, halve: bool) -> None:
    """Splits the one shard into two; float32 becomes f32-to-bf16 in the first, as mlc_llm writes it."""
    from melt_core.models.mlc.writer import read_parameters

    items = list(read_parameters(folder).items())
    shards = []
    for number, part in enumerate((items[: len(items) // 2], items[len(items) // 2 :])):
        data, records = b"", []
        for name, values in part:
            halved = halve and values.dtype == np.float32 and number == 0
            raw = (rounded_to_bf16(values) if halved else values).tobytes()
            place = {"name": name, "shape": list(values.shape), "dtype": str(values.dtype), "nbytes": len(raw)}
            records.append(place | {"format": "f32-to-bf16" if halved else "raw", "byteOffset": len(data)})
            data += raw
        path = folder / f"params_shard_{number}.bin"
        path.write_bytes(data)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        shard = {"dataPath": path.name, "format": "raw-shard", "nbytes": len(data), "md5sum": digest}
        shards.append(shard | {"records": records})
    (folder / "tensor-cache.json").write_text(json.dumps({"metadata": {"ParamSize": len(items)}, "records": shards}))


def compile_for_gpu(path: Path) -> None:
    """Compiles one addition for OpenCL, which no wheel of TVM can run."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend import nn

    class Sum(nn.Module):  # type: ignore[misc]
        def decode(self, x: Any) -> Any:
            return x + x

    module, _ = Sum().export_tvm(spec={"decode": {"x": nn.spec.Tensor([64], "float32")}})
    target = tvm.target.Target({"kind": "opencl"}, host={"kind": "llvm"})
    with target:
        module = tvm.s_tir.dlight.ApplyDefaultSchedule(tvm.s_tir.dlight.gpu.Fallback())(
            relax.transform.LegalizeOps()(module)
        )
        relax.build(module, target=target).export_library(str(path))


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    compile_for_gpu(Path(sys.argv[1]) / "gpu.so")
