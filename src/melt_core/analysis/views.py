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
class OpTotals:
    """One op of the model, over all steps of the measured runs."""

    name: str
    op_type: str
    layer: int | None
    shape: tuple[int, ...]
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


def top_ops(trace: Trace, *, n: int = 15) -> list[OpTotals]:
    """Returns the ops with the most main-thread time; the same op of several topologies counts as one."""
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    sums = per_definition(trace, Selection())
    total_ns = float(sums.wall_ns.sum())
    if total_ns <= 0:
        return []
    names, first, group_of = np.unique(definitions["op"], return_index=True, return_inverse=True)
    wall_ns = np.bincount(group_of, weights=sums.wall_ns, minlength=len(names))
    count = np.bincount(group_of, weights=sums.count, minlength=len(names))
    n_bytes = np.bincount(group_of, weights=sums.count * bytes_moved(definitions), minlength=len(names))
    flops = np.bincount(group_of, weights=sums.count * definitions["flops"], minlength=len(names))
    found = []
    for number in np.argsort(-wall_ns, kind="stable")[:n].tolist():
        if wall_ns[number] <= 0:
            break
        definition = definitions[first[number]]
        found.append(
            OpTotals(
                name=decode_text(names[number : number + 1])[0],
                op_type=definition["op_type"].decode("utf-8", "replace"),
                layer=int(definition["layer"]) if definition["layer"] >= 0 else None,
                shape=tuple(definition["shape"].tolist()),
                count=int(count[number]),
                wall_ns=float(wall_ns[number]),
                share=float(wall_ns[number]) / total_ns,
                bytes_per_s=_rate(n_bytes[number], wall_ns[number]),
                flop_per_s=_rate(flops[number], wall_ns[number]),
            )
        )
    return found


def _rate(amount: float, time_ns: float) -> float | None:
    rate = float(amount) * 1e9 / float(time_ns)
    return rate if np.isfinite(rate) and rate > 0 else None
