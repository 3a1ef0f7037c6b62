"""Do the parts add up to the whole? Op times against graph times, and graph times against phase times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import GRAPH_ABORTED, ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class Conservation:
    """Sum of compute + wait on the main thread / graph wall time, over the graphs whose records are all there."""

    min: float | None
    median: float | None
    n_graphs: int
    n_excluded: int
    reason: str | None = None


@dataclass(frozen=True)
class GraphRatios:
    """The conservation of each graph whose records are all there, and how many of the others there are."""

    ratios: Array
    n_excluded: int


@dataclass(frozen=True)
class GraphGap:
    """Time inside the prefill and decode phases but outside any graph: sampling, and the runtime's own work."""

    prefill_ns: float | None
    prefill_ratio: float | None
    decode_ns: float | None
    decode_ratio: float | None


def conservation_of(trace: Trace, runs: Array) -> Conservation:
    """Returns the conservation over the graphs of `runs`."""
    found = conservation_ratios(trace, runs)
    ratios, n_excluded = found.ratios, found.n_excluded
    if not len(ratios) and not n_excluded:
        return Conservation(None, None, 0, 0, "the measured runs recorded no graphs")
    if not len(ratios):
        return Conservation(None, None, 0, n_excluded, f"all {n_excluded} graphs were aborted or lost records")
    return Conservation(float(ratios.min()), float(np.median(ratios)), len(ratios), n_excluded)


def conservation_ratios(trace: Trace, runs: Array) -> GraphRatios:
    """Returns the conservation of each graph of `runs`, in their order.

    Graphs that were aborted, lost records (dropped, or damaged in the file) or took no time are left out, and counted.
    """
    graphs = trace.records(ChunkKind.GRAPHS)
    of_runs = np.isin(_run_of_graphs(trace, graphs), runs)
    counts, spent_ns = np.zeros(len(graphs), np.int64), np.zeros(len(graphs))
    for block in trace.op_blocks():
        main = (block["thread"] == 0) & (block["graph"] < len(graphs))
        graph = block["graph"][main].astype(np.intp)
        if not len(graph):
            continue
        first, last = int(graph.min()), int(graph.max())  # a block touches few graphs: count in that range only
        spent = block["compute_ns"][main] + block["wait_ns"][main]
        counts[first : last + 1] += np.bincount(graph - first)
        spent_ns[first : last + 1] += np.bincount(graph - first, weights=spent)
    whole = (counts == graphs["n_groups"]) & (counts > 0) & (graphs["n_dropped"] == 0)
    whole &= ((graphs["flags"] & GRAPH_ABORTED) == 0) & (graphs["duration_ns"] > 0)
    usable = of_runs & whole
    return GraphRatios(spent_ns[usable] / graphs["duration_ns"][usable], int((of_runs & ~whole).sum()))


def graph_gap_of(trace: Trace, runs: Array) -> GraphGap:
    """Returns the time of the prefill and decode phases of `runs` that no graph accounts for."""
    phases, graphs = trace.records(ChunkKind.PHASES), trace.records(ChunkKind.GRAPHS)
    tokens = trace.records(ChunkKind.TOKENS)
    phase_of_graph = np.append(tokens["phase"], np.uint16(0))[np.minimum(graphs["token"], len(tokens))]
    run_of_graph = _run_of_graphs(trace, graphs)
    found: list[float | None] = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        in_phase = phases[(phases["phase"] == phase) & np.isin(phases["run"], runs)]
        phase_ns = float(in_phase["duration_ns"].sum(dtype=np.float64))
        mine = (phase_of_graph == phase) & np.isin(run_of_graph, runs)
        graph_ns = float(graphs["duration_ns"][mine].sum(dtype=np.float64))
        if phase_ns <= 0 or not mine.any():
            found += [None, None]
            continue
        found += [phase_ns - graph_ns, (phase_ns - graph_ns) / phase_ns]
    return GraphGap(*found)


def _run_of_graphs(trace: Trace, graphs: Array) -> Array:
    tokens = trace.records(ChunkKind.TOKENS)
    run_of_token = np.append(tokens["run"].astype(np.int64), -1)
    runs: Array = run_of_token[np.minimum(graphs["token"], len(tokens))]
    return runs
