"""Views of a trace for charts: one token's timeline, time per layer and module, the slowest ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.group import Selection, bytes_moved, per_definition
from melt_core.analysis.summary import measured_runs
from melt_core.trace.format import TOKEN_CUT, ChunkKind, Phase
from melt_core.trace.tables import decode_text
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class Timeline:
    """The op records of one token, by thread, with times relative to the first of them."""

    run: int
    index: int
    phase: str
    span_ns: int
    n_left_out: int
    records: Array
    n_threads: int


@dataclass(frozen=True)
class LayerTimes:
    """Main-thread time per module and layer, per step of a phase: `ns[module, layer]`."""

    modules: tuple[str, ...]
    layers: tuple[int, ...]
    ns: Array
    n_steps: int


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


def n_steps(trace: Trace, phase: Phase) -> int:
    """Returns how many evaluation steps of a phase the measured runs have."""
    tokens = trace.records(ChunkKind.TOKENS)
    whole = (tokens["flags"] & TOKEN_CUT) == 0
    return int(np.count_nonzero(whole & (tokens["phase"] == phase) & np.isin(tokens["run"], measured_runs(trace))))


def token_timeline(trace: Trace, *, max_records: int = 4000) -> Timeline | None:
    """Returns the timeline of the median decode step (else prefill) of the measured runs; None without op records."""
    tokens = trace.records(ChunkKind.TOKENS)
    graphs = trace.records(ChunkKind.GRAPHS)
    with_graph = np.zeros(len(tokens) + 1, np.bool_)
    with_graph[np.minimum(graphs["token"], len(tokens))] = True
    usable = with_graph[:-1] & np.isin(tokens["run"], measured_runs(trace)) & ((tokens["flags"] & TOKEN_CUT) == 0)
    for phase in (Phase.DECODE, Phase.PREFILL):
        rows = np.flatnonzero(usable & (tokens["phase"] == phase))
        rows = rows[np.argsort(tokens["duration_ns"][rows], kind="stable")]
        if not len(rows):
            continue
        row = int(rows[len(rows) // 2])
        found = [block[block["token"] == row] for block in trace.op_blocks()]
        records = np.concatenate([part for part in found if len(part)] or [np.zeros(0, np.uint8)])
        if len(records):
            return _timeline(records, tokens[row], phase, max_records)
    return None


def _timeline(records: Array, token: Any, phase: Phase, max_records: int) -> Timeline:
    spent = records["compute_ns"] + records["wait_ns"]
    kept = np.sort(np.argsort(-spent, kind="stable")[:max_records])
    start_ns = int(records["start_ns"].min())
    return Timeline(
        run=int(token["run"]),
        index=int(token["index"]),
        phase=phase.name.lower(),
        span_ns=int((records["start_ns"] + spent).max()) - start_ns,
        n_left_out=len(records) - len(kept),
        records=records[kept],
        n_threads=len(np.unique(records["thread"][kept])),
    )


def layer_times(trace: Trace, phase: Phase) -> LayerTimes | None:
    """Returns the time per module and layer of one phase; None where no op belongs to a layer."""
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    wall_ns = per_definition(trace, Selection(phase=int(phase))).wall_ns
    used = (definitions["layer"] >= 0) & (wall_ns > 0)
    steps = n_steps(trace, phase)
    if not used.any() or not steps:
        return None
    layers, layer_of = np.unique(definitions["layer"][used], return_inverse=True)
    modules, module_of = np.unique(definitions["module"][used], return_inverse=True)
    cells = np.bincount(
        module_of * len(layers) + layer_of, weights=wall_ns[used], minlength=len(modules) * len(layers)
    ).reshape(len(modules), len(layers))
    order = np.argsort(-cells.sum(axis=1), kind="stable")
    names = decode_text(modules)
    return LayerTimes(
        modules=tuple(names[number] or "other" for number in order),
        layers=tuple(layers.tolist()),
        ns=cells[order] / steps,
        n_steps=steps,
    )


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


def _rate(amounts: Array, spent_ns: Array) -> float | None:
    """Returns the amount per second, of what has a formula; None without any."""
    known = np.isfinite(amounts)
    amount, time_ns = float(amounts[known].sum()), float(spent_ns[known].sum())
    return amount * NS_PER_S / time_ns if amount > 0 and time_ns > 0 else None
