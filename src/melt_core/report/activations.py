"""Live activations as text and as a chart: the peak of each phase, at which op, and op by op."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from melt_core.analysis.liveness import LiveGraph, live_graphs, why_unknown
from melt_core.report import human
from melt_core.report._charts import PLOT_HEIGHT, PLOT_WIDTH, esc, plot, ticks, x_axis
from melt_core.report.text import WIDTH

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace


def activation_lines(trace: Trace) -> list[str]:
    """Returns one line for each phase with its peak; without any a line that says why, where graphs were recorded."""
    graphs = live_graphs(trace)
    if not graphs:
        reason = why_unknown(trace)
        known = reason is None or not len(trace.graphs)
        return [] if known else textwrap.wrap(f"missing: live activations: {reason}", WIDTH, subsequent_indent="  ")
    lines = []
    for graph in graphs:
        lines += textwrap.wrap(f"live activations, {graph.phase}: {_peak(graph)}", WIDTH, subsequent_indent="  ")
    return lines


def graph_lines(graph: LiveGraph, *, max_rows: int | None = None) -> list[str]:
    """Returns the ops of a graph, with their place in it and what is live at each.

    Args:
        graph: The graph.
        max_rows: So many ops at which most is live, the greatest first; None: all, in the order of the graph.
    """
    ops = list(enumerate(graph.ops))
    if max_rows is not None:
        ops = sorted(ops, key=lambda each: -each[1].live_bytes)[:max_rows]
    lines = textwrap.wrap(f"{graph.phase}: {_peak(graph)}", WIDTH)
    lines.append(f"{'live':>9}  {'place':>5}  {'op_type':<20}op")
    for at, op in ops:
        size, kind = human.size_bytes(op.live_bytes), human.plain(op.op_type)[:18]
        lines.append(f"{size:>9}  {at:>5}  {kind:<20}{human.plain(op.op)}"[:WIDTH])
    if len(ops) < len(graph.ops):
        lines.append(f"... {len(graph.ops) - len(ops)} more of {len(graph.ops)} ops: --all shows them in their order")
    return lines


def activations_body(trace: Trace) -> str:
    """Returns the charts (HTML); empty without live activations."""
    graphs = live_graphs(trace)
    if not graphs:
        return ""
    return "<h3>Op by op</h3>" + "".join(_chart(graph) for graph in graphs)


def _peak(graph: LiveGraph) -> str:
    text = f"peak {human.size_bytes(graph.peak.live_bytes)} at {human.plain(graph.peak.op)} ({graph.peak.op_type})"
    if graph.compute_bytes is None:
        return text
    return (
        f"{text}, {human.percent(graph.buffer_ratio)} of the compute buffer's {human.size_bytes(graph.compute_bytes)}"
    )


def _chart(graph: LiveGraph) -> str:
    y = ticks(0, graph.peak.live_bytes)
    step = PLOT_WIDTH / len(graph.ops)
    points = []
    for at, op in enumerate(graph.ops):
        height = PLOT_HEIGHT * (1 - op.live_bytes / y[-1])
        points += [f"{at * step:.1f},{height:.1f}", f"{(at + 1) * step:.1f},{height:.1f}"]
    style = "fill:none;stroke:var(--c0);stroke-width:2;vector-effect:non-scaling-stroke"
    line = f'<polyline style="{style}" points="{" ".join(points)}"/>'
    below = x_axis(0, len(graph.ops), lambda place: f"{place:.0f}", least_step=1)
    return (
        f"<p>{esc(graph.phase.capitalize())}: {esc(_peak(graph))}</p>"
        + plot(f"live activations, {graph.phase}", line, y, human.size_bytes, below)
        + '<div class="legend"><span>x: op of the graph, in order</span></div>'
    )
