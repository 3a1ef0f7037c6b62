"""Rows about ops: all records with everything known about them, for exports; the ops that take longest, for reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.group import Selection, bytes_moved, per_definition
from melt_core.trace.format import ChunkKind, Phase
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.table import Table
    from melt_core.trace.trace import Trace

BLOCK_ROWS = 1 << 16


def op_tables(trace: Trace, *, run: int | None = None) -> Iterator[Table]:
    """Yields the ops table in pieces; only the rows of one run if asked."""
    ops = trace.ops
    for start in range(0, len(ops), BLOCK_ROWS):
        block = ops[start : start + BLOCK_ROWS]
        if run is not None:
            rows = np.flatnonzero(block["run"] == run)
            if not len(rows):
                continue
            block = block if len(rows) == len(block) else block[rows]
        yield block


@dataclass(frozen=True)
class SlowOp:
    """One op of the model in one phase, over all its steps; `shapes` are those it ran with, that of most time first."""

    name: str
    op_type: str
    phase: str
    shapes: tuple[str, ...]
    count: int
    wall_ns: float
    share: float
    bytes_per_s: float | None
    flop_per_s: float | None


def slowest_ops(trace: Trace, *, n: int = 15) -> list[SlowOp]:
    """Returns the ops with the most main-thread time in prefill and decode.

    A name may be that of two ops (a product and the rotation behind it), and prefill and decode differ in shape and in
    rates. So an op is a name, a type and a phase; the same one of several topologies counts once.
    """
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    keys, group_of = np.unique(definitions[["op", "op_type"]], return_inverse=True)
    n_bytes = bytes_moved(definitions)
    sums_of = {phase: per_definition(trace, Selection(phase=int(phase))) for phase in (Phase.PREFILL, Phase.DECODE)}
    total_ns = sum(float(sums.wall_ns.sum()) for sums in sums_of.values())
    wall_of = [(phase, np.bincount(group_of, sums.wall_ns, len(keys))) for phase, sums in sums_of.items()]
    every = ((float(time_ns), phase, key) for phase, wall_ns in wall_of for key, time_ns in enumerate(wall_ns))
    found = []
    for wall_ns, phase, key in sorted(every, reverse=True)[:n]:
        if wall_ns <= 0:
            break
        sums = sums_of[phase]
        rows = np.flatnonzero((group_of == key) & (sums.count > 0))
        rows = rows[np.argsort(-sums.wall_ns[rows], kind="stable")]
        spent_ns, count = sums.wall_ns[rows], sums.count[rows]
        found.append(
            SlowOp(
                name=keys[key]["op"].decode("utf-8", "replace"),
                op_type=keys[key]["op_type"].decode("utf-8", "replace"),
                phase=phase.name.lower(),
                shapes=tuple(dict.fromkeys(map(_shape, definitions["shape"][rows].tolist()))),
                count=int(count.sum()),
                wall_ns=wall_ns,
                share=wall_ns / total_ns,
                bytes_per_s=_rate(count * n_bytes[rows], spent_ns),
                flop_per_s=_rate(count * definitions["flops"][rows], spent_ns),
            )
        )
    return found


def _shape(shape: list[int]) -> str:
    return "x".join(str(size) for at, size in enumerate(shape) if at >= 2 or size not in (0, 1))


def _rate(amounts: NDArray[Any], spent_ns: NDArray[Any]) -> float | None:
    """Returns the amount per second, of what has a formula; None without any."""
    known = np.isfinite(amounts)
    amount, time_ns = float(amounts[known].sum()), float(spent_ns[known].sum())
    return amount * NS_PER_S / time_ns if amount > 0 and time_ns > 0 else None
