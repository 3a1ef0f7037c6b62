"""Compiles a model to a library: nn frontend -> Relax -> the virtual machine's byte code and LLVM's kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import cc, tar

from melt_core.models.mlc.compiler.model import export
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.quantization import Quantization
from melt_core.models.mlc.targets import Machine


def compile_library(path: Path, config: ModelConfig, quantization: Quantization, machine: Machine) -> None:
    """Writes the library; for targets without a linker here, an archive of objects for the app to link."""
    target = tvm.target.Target(machine.to_tvm())
    with target:
        module, params = export(config, quantization, machine)
        bound = {"tir_var_upper_bound": {"n": config.prefill_chunk_size}}
        for name in ("embed", "prefill"):
            module[name] = module[name].with_attrs(bound)
        metadata = describe(config, quantization, params) | {"cpu_features": list(machine.needs)}
        if not machine.shared:  # such a library is found by name in the app, which may hold several
            module = module.with_attr("system_lib_prefix", f"melt_{config.model_type}_{quantization.name}_")
        options = {} if machine.shared else {"system_lib": True}
        built = relax.build(module, target=target, relax_pipeline=_pipeline(metadata), **options)
    if not machine.shared:
        built.export_library(str(path), fcompile=tar.tar)
    elif machine.linker:
        built.export_library(
            str(path), fcompile=cc.cross_compiler(machine.linker, get_target_triple=lambda: machine.triple)
        )
    else:
        built.export_library(str(path))


def describe(config: ModelConfig, quantization: Quantization, params: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns what the library's ``_metadata`` says, without the memory that functions take."""
    return {
        "model_type": config.model_type,
        "quantization": quantization.name,
        "context_window_size": config.context_window_size,
        "prefill_chunk_size": config.prefill_chunk_size,
        "sliding_window_size": -1,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "max_batch_size": 1,
        "active_vocab_size": config.vocab_size,
        "model_task": "chat",
        "kv_state_kind": "kv_cache",
        "kv_cache": {
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
        },
        "params": [
            {
                "name": name,
                "shape": [int(extent) for extent in value.shape],
                "dtype": str(value.dtype),
                "preprocs": [],
                "pipeline_stages": [0],
            }
            for name, value in params
        ],
    }


def _pipeline(metadata: dict[str, Any]) -> Any:
    """Returns the passes. Kernels come scheduled; what is left to fuse is little."""
    passes = relax.transform

    @tvm.transform.module_pass(opt_level=0, name="Lower")
    class Lower:
        def transform_module(self, module: Any, context: Any) -> Any:
            plan = [
                passes.LegalizeOps(),
                passes.FoldConstant(),
                passes.DeadCodeElimination(),
                passes.RewriteDataflowReshape(),
                passes.ToNonDataflow(),
                passes.RemovePurityChecking(),
                passes.CallTIRRewrite(),
                passes.StaticPlanBlockMemory(),
            ]
            module = tvm.transform.Sequential(plan)(module)
            module = add_metadata(module, metadata)
            finish = [
                passes.LowerAllocTensor(),
                passes.KillAfterLastUse(),
                passes.LowerRuntimeBuiltin(),
                passes.VMShapeLower(),
                passes.AttachGlobalSymbol(),
            ]
            return tvm.transform.Sequential(finish)(module)

    return Lower()


def add_metadata(module: Any, metadata: dict[str, Any]) -> Any:
    """Adds ``_metadata``, with the bytes of the storage that each function's plan takes."""
    usage = {
        variable.name_hint: _planned_bytes(function)
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
    text = json.dumps(metadata | {"memory_usage": usage})
    builder = relax.BlockBuilder(module)
    with builder.function("_metadata", params=[]):
        builder.emit_func_output(tvm.ir.StringImm(text))
    return builder.finalize()


def _planned_bytes(function: Any) -> int:
    storage = tvm.ir.Op.get("relax.memory.alloc_storage")
    total = 0

    def visit(expression: Any) -> None:
        nonlocal total
        if isinstance(expression, relax.Call) and expression.op.same_as(storage):
            (size,) = expression.args[0].values
            total += int(size)

    relax.analysis.post_order_visit(function, visit)
    return total
