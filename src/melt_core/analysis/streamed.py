"""What a step must stream anew from memory: weights, and the part of the KV cache that it attends to.

Between two uses of a weight everything else a step reads passes through the caches, so a weight comes from memory
unless the whole step fits a cache. Bytes here are per execution of an op definition. See docs/roofline.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import RUN_WARMUP, ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

ATTENTION = "FLASH_ATTN_EXT"
SCAN = "SSM_SCAN"

#: Bytes of a block and values in it (ggml's type traits, llama.cpp 0c1e570), for what activations and caches are.
_BLOCKS = {
    "f32": (4, 1), "f16": (2, 1), "bf16": (2, 1), "i32": (4, 1), "i64": (8, 1), "q8_0": (34, 32), "q4_0": (18, 32),
    "q4_1": (20, 32), "q5_0": (22, 32), "q5_1": (24, 32), "iq4_nl": (18, 32), "": (0, 1),
}  # fmt: skip

#: Which source of an op is the weight, where it has one. Elsewhere the weight is of a later op of the fused group.
_WEIGHT_SOURCE = {
    "MUL_MAT": 0,
    "MUL_MAT_ID": 0,
    "GET_ROWS": 0,
    "ADD": 1,
    "ADD_ID": 1,
    "MUL": 1,
    "SUB": 1,
    "DIV": 1,
    "SSM_CONV": 1,
    "ROPE": 2,
}


@dataclass(frozen=True)
class StreamedBytes:
    """Arrays with one element per op definition.

    Attributes:
        weight: Bytes read of the weight; 0 without one, NaN where they cannot be told from the rest.
        cache: Bytes of K and V for all positions that the graph was built for, or of a recurrent state, read and
            written; 0 for other ops, NaN where its type is not known.
        n_positions: Positions that the graph was built for; 0 where the op is no attention.
        step: Sum of weight and cache over the op's whole graph: the working set of one step.
    """

    weight: Array
    cache: Array
    n_positions: Array
    step: Array


def first_op_types(definitions: Array) -> list[str]:
    """Returns the op type of each definition, of a fused group the first."""
    return [name.decode("utf-8", "replace").partition("+")[0] for name in definitions["op_type"].tolist()]


def streamed_bytes(definitions: Array) -> StreamedBytes:
    """Returns what each op definition streams."""
    n = len(definitions)
    weight, cache, n_positions = np.zeros(n), np.zeros(n), np.zeros(n)
    for at, (row, op_type) in enumerate(zip(definitions, first_op_types(definitions), strict=True)):
        weight[at] = _weight_bytes(row, op_type)
        if op_type == ATTENTION:
            cache[at] = _source_bytes(row, 1) + _source_bytes(row, 2)
            n_positions[at] = row["src_shape"][1][2]
        elif op_type == SCAN:
            cache[at] = 2 * _source_bytes(row, 0) / max(int(row["src_shape"][0][0]), 1)
    topologies, group_of = np.unique(definitions["topology"], return_inverse=True)
    per_step = np.bincount(group_of, weights=np.nan_to_num(weight) + np.nan_to_num(cache), minlength=len(topologies))
    return StreamedBytes(weight, cache, n_positions, per_step[group_of])


def _source_bytes(row: Any, source: int) -> float:
    block = _BLOCKS.get(row["src_dtype"][source].decode("utf-8", "replace"))
    if block is None:
        return float("nan")
    n_bytes, n_values = block
    return float(np.prod(row["src_shape"][source], dtype=np.float64)) * n_bytes / n_values


def _weight_bytes(row: Any, op_type: str) -> float:
    """Returns bytes_read less the sources that are no weight: what a repacked weight really takes stays in."""
    if not row["weight"]:
        return 0.0
    own = _WEIGHT_SOURCE.get(op_type)
    if own is None and int(row["n_fused"]) < 2:
        return float("nan")
    others = sum(_source_bytes(row, source) for source in range(3) if source != own)
    return max(float(row["bytes_read"]) - others, 0.0) if np.isfinite(others) else float("nan")


@dataclass(frozen=True)
class Attended:
    """How much of the positions that graphs were built for the decode steps attended to, per op definition.

    Attributes:
        missing: Sum over executions of (1 - attended / n_positions): executions too many, as it were.
        positions: Sum over executions of the positions attended to.
        count: Executions in decode steps.
    """

    missing: Array
    positions: Array
    count: Array


def attended_in_decode(trace: Trace, n_positions: Array) -> Attended:
    """Returns what the attention of decode steps really attends to: step `index` of a run n_prompt + index positions.

    Warm-up runs are left out. For a layer with a sliding window, whose width no trace holds, this is an upper bound.
    """
    runs, tokens = trace.records(ChunkKind.RUNS), trace.records(ChunkKind.TOKENS)
    found = Attended(*(np.zeros(len(n_positions)) for _ in range(3)))
    if not len(runs) or not len(tokens) or not n_positions.any():
        return found
    run = np.minimum(tokens["run"], len(runs) - 1)
    counts = (tokens["phase"] == Phase.DECODE) & (tokens["run"] < len(runs))
    counts &= (runs["flags"][run] & RUN_WARMUP) == 0
    attended = runs["n_prompt"][run].astype(np.float64) + tokens["index"]
    for block in trace.op_blocks():
        picked = block[(block["thread"] == 0) & (n_positions[block["op"]] > 0) & (block["token"] < len(tokens))]
        picked = picked[counts[picked["token"]]]
        op = picked["op"].astype(np.intp)
        positions = np.minimum(attended[picked["token"]], n_positions[op])
        n = len(n_positions)
        found.count[:] += np.bincount(op, minlength=n)
        found.positions[:] += np.bincount(op, weights=positions, minlength=n)
        found.missing[:] += np.bincount(op, weights=1 - positions / n_positions[op], minlength=n)
    return found
