"""The report's memory section: the truth table, and resident memory over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melt_core.analysis.memory import memory_of
from melt_core.analysis.samples import Series, series_of
from melt_core.report import human
from melt_core.report._charts import PLOT_HEIGHT, PLOT_WIDTH, esc, plot, ticks, x_axis
from melt_core.report.activations import activations_body

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_POINTS = 1000
_LINES = (("process/rss", "resident set"), ("process/rss_anon", "anonymous"), ("process/heap", "heap"))


def memory_body(trace: Trace) -> str:
    """Returns the section's contents (HTML) for a trace with level memory."""
    account = memory_of(trace)
    rows = []
    for row in account.rows:
        sizes = (row.bytes, row.resident_bytes, row.peak_bytes)
        cells = "".join(f'<td class="num">{esc(human.size_bytes(size))}</td>' for size in sizes)
        rows.append(f"<tr><td>{esc(row.category)}</td>{cells}<td>{esc(row.source)}</td></tr>")
    head = "".join(f'<th class="num">{name}</th>' for name in ("bytes", "resident", "peak"))
    table = (
        f'<div class="scroll"><table><thead><tr><th>category</th>{head}<th>source</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    missing = "".join(
        f"<dt>Missing: {esc(name)}</dt><dd>{esc(reason)}</dd>" for name, reason in account.missing.items()
    )
    activations = activations_body(trace)
    return table + _timeline(series_of(trace)) + activations + (f"<dl>{missing}</dl>" if missing else "")


def _timeline(series: dict[str, Series]) -> str:
    shown = [(series[name], label) for name, label in _LINES if name in series and len(series[name].values) > 1]
    if not shown:
        return ""
    start_ns = min(int(found.time_ns[0]) for found, _ in shown)
    span_ns = max(max(int(found.time_ns[-1]) for found, _ in shown) - start_ns, 1)
    y_ticks = ticks(0.0, max(float(found.values.max()) for found, _ in shown) or 1.0)
    lines, legend = [], []
    for colour, (found, label) in enumerate(shown):
        picked = np.unique(np.linspace(0, len(found.values) - 1, _POINTS).astype(np.intp))
        x = PLOT_WIDTH * (found.time_ns[picked] - start_ns) / span_ns
        y = PLOT_HEIGHT * (1 - np.maximum(found.values[picked], 0) / y_ticks[-1])
        points = " ".join(f"{at:.1f},{height:.1f}" for at, height in zip(x.tolist(), y.tolist(), strict=True))
        style = f"fill:none;stroke:var(--c{colour});stroke-width:2;vector-effect:non-scaling-stroke"
        lines.append(f'<polyline style="{style}" points="{points}"><title>{esc(label)}</title></polyline>')
        legend.append(f'<span><i class="swatch" style="background:var(--c{colour})"></i>{esc(label)}</span>')
    x_labels = x_axis(start_ns, start_ns + span_ns, human.time_ns)
    return (
        f"<h3>Over the runs</h3>{plot('memory over time', ''.join(lines), y_ticks, human.size_bytes, x_labels)}"
        f'<div class="legend">{"".join(legend)}<span>x: time since the trace began</span></div>'
    )
