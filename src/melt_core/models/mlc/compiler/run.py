"""Runs a model directory with TVM's own virtual machine and writes its logits, to be compared with the source's.

``python -m melt_core.models.mlc.compiler.run FOLDER OUTPUT.npy N_PREFILL ID ...``: the first N_PREFILL ids at once, the
others one by one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from melt_core.models.mlc.writer import read_parameters


def logits_of(folder: Path, ids: list[int], n_prefill: int) -> Any:
    """Returns logits [1 + ids decoded, vocabulary]."""
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    names = [param["name"] for param in json.loads(machine["_metadata"]())["params"]]
    stored = read_parameters(folder)
    params = [tvm.runtime.tensor(np.ascontiguousarray(stored[name])) for name in names]
    shape, builtin = tvm.runtime.ShapeTuple, tvm.get_global_func
    total = -(-len(ids) // 16) * 16 + 16
    cache = machine["create_tir_paged_kv_cache"](
        shape([1]), shape([total]), shape([n_prefill]), shape([16]), shape([0])
    )
    builtin("vm.builtin.kv_state_add_sequence")(cache, 0)

    def evaluate(function: str, part: list[int]) -> Any:
        embedded = machine["embed"](tvm.runtime.tensor(np.array(part, np.int32)), params)
        embedded = tvm.runtime.tensor(embedded.numpy()[None])
        builtin("vm.builtin.kv_state_begin_forward")(cache, shape([0]), shape([len(part)]))
        logits = machine[function](embedded, cache, params)[0].numpy()
        builtin("vm.builtin.kv_state_end_forward")(cache)
        return logits.reshape(-1)

    rows = [evaluate("prefill", ids[:n_prefill])]
    rows += [evaluate("decode", [token]) for token in ids[n_prefill:]]
    return np.stack(rows)


if __name__ == "__main__":
    np.save(sys.argv[2], logits_of(Path(sys.argv[1]), [int(each) for each in sys.argv[4:]], int(sys.argv[3])))
