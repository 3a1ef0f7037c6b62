"""Live activations: how many bytes of intermediate tensors are needed at each op of a graph, and where it is most.

The recorder works it out once for each topology of a graph (docs/memory.md): here the graphs of a phase are found, the
one that needs most is chosen, and its peak is held against the compute buffer, which ggml's allocator laid out for the
largest graph there can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.memory import live_bytes
from melt_core.analysis.summary import measured_runs
from melt_core.trace.format import ChunkKind, Phase
from melt_core.trace.tables import decode_text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class LiveOp:
    """One op of a graph and the bytes of activations needed while it runs."""

    op: str
    op_type: str
    layer: int | None
    live_bytes: float


@dataclass(frozen=True)
class LiveGraph:
    """The graph of a phase that needs most.

    Attributes:
        phase: prefill or decode.
        topology: Which graph topology.
        ops: Its ops in order of execution.
        peak: The op at which most is needed; of equals the first.
        compute_bytes: Size of the runtime's compute buffer; None without level memory.
    """

    phase: str
    topology: int
    ops: tuple[LiveOp, ...]
    peak: LiveOp
    compute_bytes: float | None

    @property
    def buffer_ratio(self) -> float | None:
        """Peak / compute buffer: the rest is for a longer context or a fuller batch, gaps and alignment."""
        return None if not self.compute_bytes else self.peak.live_bytes / self.compute_bytes

    def to_json(self, *, ops: bool = False) -> dict[str, Any]:
        """Returns the peak, and with `ops` every op."""
        value: dict[str, Any] = {
            "phase": self.phase,
            "topology": self.topology,
            "n_ops": len(self.ops),
            "peak_live_bytes": round(self.peak.live_bytes),
            "op": self.peak.op,
            "op_type": self.peak.op_type,
            "layer": self.peak.layer,
            "compute_buffer_bytes": None if self.compute_bytes is None else round(self.compute_bytes),
            "buffer_ratio": self.buffer_ratio,
        }
        if ops:
            value["ops"] = [{**vars(op), "live_bytes": round(op.live_bytes)} for op in self.ops]
        return value


def known_live_bytes(definitions: Array) -> Array:
    """Returns the field, NaN where it is not known: a file of format 1.0 reads as 0, and no op runs on nothing."""
    values = definitions["live_bytes"].astype(np.float64)
    return np.where(values > 0, values, np.nan)


def why_unknown(trace: Trace) -> str | None:
    """Returns why no graph's live activations are known; None if some are."""
    if not len(trace.records(ChunkKind.GRAPHS)):
        return "no graph was recorded: profile with --levels tokens,ops"
    if np.isfinite(known_live_bytes(trace.records(ChunkKind.OP_DEFINITIONS))).any():
        return None
    if (trace.header.major, trace.header.minor) < (1, 1):
        return f"the trace is of format {trace.header.major}.{trace.header.minor}, which lacks them: record it anew"
    return "this runtime does not say where its activations lie"


def live_graphs(trace: Trace) -> list[LiveGraph]:
    """Returns, for prefill and decode of the measured runs, the graph that needs most; none for a phase without."""
    definitions, graphs = trace.records(ChunkKind.OP_DEFINITIONS), trace.records(ChunkKind.GRAPHS)
    tokens = trace.records(ChunkKind.TOKENS)
    live = known_live_bytes(definitions)
    within = graphs["token"] < len(tokens)
    row = np.where(within, graphs["token"], 0)
    if not len(tokens) or not np.isfinite(live).any():
        return []
    measured = within & np.isin(tokens["run"][row], measured_runs(trace))
    sizes = live_bytes(trace).get("compute")
    compute = None if sizes is None else float(sizes[1].max())
    found = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        used = np.unique(graphs["topology"][measured & (tokens["phase"][row] == phase)])
        own = np.isin(definitions["topology"], used) & np.isfinite(live)
        if own.any():
            most = int(np.argmax(np.where(own, live, -1.0)))
            found.append(_graph(definitions, live, phase, int(definitions["topology"][most]), compute))
    return found


def _graph(definitions: Array, live: Array, phase: Phase, topology: int, compute: float | None) -> LiveGraph:
    rows = np.flatnonzero((definitions["topology"] == topology) & np.isfinite(live))
    rows = rows[np.argsort(definitions["node"][rows], kind="stable")]
    names, types = decode_text(definitions["op"][rows]), decode_text(definitions["op_type"][rows])
    layers = definitions["layer"][rows].tolist()
    ops = tuple(
        LiveOp(name, op_type, layer if layer >= 0 else None, size)
        for name, op_type, layer, size in zip(names, types, layers, live[rows].tolist(), strict=True)
    )
    return LiveGraph(phase.name.lower(), topology, ops, max(ops, key=lambda op: op.live_bytes), compute)
