"""Writes a tiny Llama with random weights as an MLC model directory, compiled by the TVM that is installed.

    python mlc_model.py FOLDER [QUANTIZATION]      # q0f32 (default) or q4f32_1
    python mlc_model.py FOLDER opencl              # a library for a GPU only
    python mlc_model.py FOLDER aarch64 COMPILER    # q0f32, its library for arm64 Linux, linked by that compiler

Run as a process of its own: TVM's compiler has no business in the process that tests its runtime. The model is in the
shape of MLC's (functions, metadata, parameter names, files); its kernels are TVM's own, unscheduled.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Config:
    """Names as in mlc-chat-config.json's model_config."""

    hidden_size: int = 64
    intermediate_size: int = 96
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    num_hidden_layers: int = 2
    vocab_size: int = 320
    rms_norm_eps: float = 1e-5
    position_embedding_base: float = 10000.0
    context_window_size: int = 512
    prefill_chunk_size: int = 128
    tie_word_embeddings: bool = True


GROUP, PER_WORD, MAX_INT = 32, 8, 7


def parameters(config: Config, seed: int = 1) -> dict[str, np.ndarray]:
    """Returns random float32 parameters by MLC's names."""
    draw = np.random.default_rng(seed)
    heads = config.num_attention_heads + 2 * config.num_key_value_heads

    def matrix(n: int, k: int) -> np.ndarray:
        return (draw.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * draw.standard_normal(config.hidden_size)).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(config.vocab_size, config.hidden_size)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        attention = config.num_attention_heads * config.head_dim
        found |= {
            f"{layer}.self_attn.qkv_proj.weight": matrix(heads * config.head_dim, config.hidden_size),
            f"{layer}.self_attn.o_proj.weight": matrix(config.hidden_size, attention),
            f"{layer}.mlp.gate_up_proj.weight": matrix(2 * config.intermediate_size, config.hidden_size),
            f"{layer}.mlp.down_proj.weight": matrix(config.hidden_size, config.intermediate_size),
            f"{layer}.input_layernorm.weight": norm(),
            f"{layer}.post_attention_layernorm.weight": norm(),
        }
    return found | {"model.norm.weight": norm()}


def rounded_to_bf16(values: np.ndarray) -> np.ndarray:
    """Returns the upper halves of float32 values, rounded to nearest."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns MLC's group quantisation q4*_1 of a matrix: packed words and scales."""
    n, k = weight.shape
    groups = weight.reshape(n, k // GROUP, GROUP)
    scale = (np.abs(groups).max(-1) / MAX_INT).astype(np.float32)
    levels = np.clip(np.rint(groups / scale[..., None] + MAX_INT), 0, 2 * MAX_INT).astype(np.uint32)
    words = levels.reshape(n, k // PER_WORD, PER_WORD)
    shifts = (np.arange(PER_WORD) * 4).astype(np.uint32)
    return np.bitwise_or.reduce(words << shifts, axis=-1).astype(np.uint32), scale


def stored(config: Config, quantization: str) -> dict[str, np.ndarray]:
    """Returns what lies in the files, by name."""
    found: dict[str, np.ndarray] = {}
    for name, values in parameters(config).items():
        if quantization == "q0f32" or values.ndim == 1:
            found[name] = values
        else:
            words, scale = quantized(values)
            found[name.replace(".weight", ".q_weight")] = words
            found[name.replace(".weight", ".q_scale")] = scale
    return found


def write_weights(folder: Path, config: Config, quantization: str, cache: str = "tensor-cache.json") -> None:
    """Writes two shards and their list; float32 as f32-to-bf16 in the first shard, raw in the second."""
    folder.mkdir(parents=True, exist_ok=True)
    items = list(stored(config, quantization).items())
    shards = []
    for number, part in enumerate((items[: len(items) // 2], items[len(items) // 2 :])):
        data, records = b"", []
        for name, values in part:
            halved = values.dtype == np.float32 and number == 0 and quantization != "q0f32"
            raw = (rounded_to_bf16(values) if halved else values).tobytes()
            records.append(
                {
                    "name": name,
                    "shape": list(values.shape),
                    "dtype": str(values.dtype),
                    "format": "f32-to-bf16" if halved else "raw",
                    "nbytes": len(raw),
                    "byteOffset": len(data),
                }
            )
            data += raw
        path = folder / f"params_shard_{number}.bin"
        path.write_bytes(data)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        shards.append(
            {"dataPath": path.name, "format": "raw-shard", "nbytes": len(data), "md5sum": digest, "records": records}
        )
    (folder / cache).write_text(json.dumps({"metadata": {"ParamSize": len(items)}, "records": shards}))


def write_config(folder: Path, config: Config, quantization: str) -> None:
    """Writes mlc-chat-config.json."""
    values = {
        "version": "0.1.0",
        "model_type": "llama",
        "quantization": quantization,
        "model_config": asdict(config),
        "vocab_size": config.vocab_size,
        "context_window_size": config.context_window_size,
        "prefill_chunk_size": config.prefill_chunk_size,
        "sliding_window_size": -1,
        "eos_token_id": [2],
        "tokenizer_files": [],
        "conv_template": {
            "name": "toy",
            "system_template": "<s>{system_message}",
            "system_message": "Be brief.",
            "roles": {"user": "<user>", "assistant": "<bot>"},
            "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
            "seps": ["</s>"],
            "role_content_sep": ":",
            "role_empty_sep": ":",
            "stop_token_ids": [2],
        },
    }
    (folder / "mlc-chat-config.json").write_text(json.dumps(values))


def metadata_json(config: Config, quantization: str, names: list[tuple[str, list[int], str]]) -> str:
    """Returns what the library's _metadata says."""
    return json.dumps(
        {
            "model_type": "llama",
            "quantization": quantization,
            "context_window_size": config.context_window_size,
            "prefill_chunk_size": config.prefill_chunk_size,
            "sliding_window_size": -1,
            "kv_state_kind": "kv_cache",
            "kv_cache": {
                "num_hidden_layers": config.num_hidden_layers,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
                "head_dim": config.head_dim,
            },
            "memory_usage": {"prefill": 1 << 20, "decode": 1 << 14},
            "params": [
                {"name": name, "shape": shape, "dtype": dtype, "preprocs": [], "pipeline_stages": [0]}
                for name, shape, dtype in names
            ],
        }
    )


def compile_library(path: Path, config: Config, quantization: str, arm64_compiler: str | None = None) -> None:
    """Compiles the model with TVM's defaults for this machine's processor, or for arm64 Linux."""
    import tvm
    from mlc_modules import export
    from tvm import relax

    arm64 = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}
    target = tvm.target.Target({"kind": "llvm"} if arm64_compiler is None else arm64)
    with target:
        module, names = export(config, quantization, target)
    text = metadata_json(config, quantization, names)

    @tvm.transform.module_pass(opt_level=0, name="AddMetadata")
    class AddMetadata:
        def transform_module(self, mod: Any, ctx: Any) -> Any:
            builder = relax.BlockBuilder(mod)
            with builder.function("_metadata", params=[]):
                builder.emit_func_output(tvm.ir.StringImm(text))
            return builder.finalize()

    with target:
        built = relax.build(AddMetadata()(module), target=target)
    if arm64_compiler is None:
        built.export_library(str(path))
        return
    from tvm.support import cc

    built.export_library(str(path), fcompile=cc.cross_compiler(arm64_compiler, get_target_triple=lambda: "aarch64"))


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


def main() -> None:
    """Writes what the command line asks for."""
    folder, what = Path(sys.argv[1]), (sys.argv[2:] or ["q0f32"])[0]
    folder.mkdir(parents=True, exist_ok=True)
    if what == "opencl":
        compile_for_gpu(folder / "gpu.so")
        return
    config = Config()
    compiler = sys.argv[3] if what == "aarch64" else None
    what = "q0f32" if compiler else what
    write_config(folder, config, what)
    write_weights(folder, config, what)
    compile_library(folder / "model.so", config, what, compiler)


if __name__ == "__main__":
    main()
