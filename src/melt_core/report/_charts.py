"""Charts as plain HTML and inline SVG: they scale with the page and need no script. Every text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.views import LayerTimes, Timeline
from melt_core.report import human
from melt_core.report._style import N_COLOURS

_PLOT_POINTS = 1500
_PLOT_WIDTH, _PLOT_HEIGHT = 1000, 230
_LANE_WIDTH, _LANE_HEIGHT = 1000, 34


def esc(value: Any) -> str:
    """Returns any value as text that is safe in HTML, in attributes too."""
    return html.escape(human.plain(value), quote=True)


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0


@dataclass(frozen=True)
class Palette:
    """One colour per op type, by rank, the same in every chart of a trace."""

    ranks: dict[str, int]

    @classmethod
    def of(cls, op_types: Iterable[str]) -> Palette:
        """Gives the first op types a colour of their own; the others share one."""
        return cls({op_type: min(rank, N_COLOURS - 1) for rank, op_type in enumerate(op_types)})

    def colour(self, op_type: str) -> str:
        """Returns the CSS colour of an op type."""
        return f"var(--c{self.ranks.get(op_type, N_COLOURS - 1)})"

    def legend(self, extra: str = "") -> str:
        """Returns the list of colours with their names."""
        own = [(name, rank) for name, rank in self.ranks.items() if rank < N_COLOURS - 1]
        items = [
            f'<span><i class="swatch" style="background:var(--c{rank})"></i>{esc(name)}</span>' for name, rank in own
        ]
        if len(self.ranks) > len(own):
            items.append(f'<span><i class="swatch" style="background:var(--c{N_COLOURS - 1})"></i>others</span>')
        return f'<div class="legend">{"".join(items)}{extra}</div>'


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart. `wait_ratio` of its length is hatched."""

    name: str
    share: float
    time_ns: float
    wait_ratio: float
    colour: str


def bars(rows: Sequence[Bar]) -> str:
    """Returns horizontal bars, the longest filling the width."""
    longest = max((_finite(row.share) for row in rows), default=0.0) or 1.0
    cells = []
    for row in rows:
        width = 100 * _finite(row.share) / longest
        wait = 100 * min(max(_finite(row.wait_ratio), 0.0), 1.0)
        title = (
            f"{row.name}: {human.percent(row.share)}, {human.time_ns(row.time_ns)}; {wait:.1f} % of thread time waits"
        )
        cells.append(
            f'<div class="name" title="{esc(row.name)}">{esc(row.name)}</div>'
            f'<div class="track" title="{esc(title)}"><div class="bar" style="width:{width:.2f}%">'
            f'<i style="width:{100 - wait:.2f}%;background:{row.colour}"></i>'
            f'<i class="wait" style="width:{wait:.2f}%;background-color:{row.colour}"></i></div></div>'
            f'<div class="num">{human.percent(row.share)} <span>{human.time_ns(row.time_ns)}</span></div>'
        )
    return f'<div class="bars">{"".join(cells)}</div>'


def strip(values: Sequence[float]) -> str:
    """Returns a small dot plot of repeated values, from 0 to a little over the greatest; the spread as it is."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.1 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    dots = "".join(
        f'<circle class="dot" cx="{100 * (value - low) / (high - low):.1f}%" cy="7" r="3.2" opacity=".6">'
        f"<title>{esc(value)}</title></circle>"
        for value in values[:200]
    )
    line = '<line class="grid-line" x1="0" x2="100%" y1="7" y2="7"/>'
    return f'<svg role="img" aria-label="{len(values)} values">{line}{dots}</svg>'


def heat(times: LayerTimes, title: str) -> str:
    """Returns a strip of layers per module; the darker, the more time per step."""
    top = float(times.ns.max()) or 1.0
    n_layers = len(times.layers)
    columns = f"grid-template-columns:max-content repeat({n_layers}, minmax(13px, 1fr)) max-content"
    cells = []
    for module, row in zip(times.modules, times.ns, strict=True):
        cells.append(f'<div class="row">{esc(module)}</div>')
        for layer, time_ns in zip(times.layers, row.tolist(), strict=True):
            alpha = 0.06 + 0.94 * max(time_ns, 0.0) / top
            label = f"{module}, layer {layer}: {human.time_ns(time_ns)} per step"
            cells.append(
                f'<div class="cell" style="background:rgba(var(--heat),{alpha:.3f})" title="{esc(label)}"></div>'
            )
        cells.append(f'<div class="total">{human.time_ns(float(row.sum()))}</div>')
    every = max(1, -(-n_layers // 16))
    cells.append('<div class="row"></div>')
    cells += [f'<div class="tick">{layer if at % every == 0 else ""}</div>' for at, layer in enumerate(times.layers)]
    grid = f'<div class="heat" style="{columns}">{"".join(cells)}<div></div></div>'
    return f'<h3>{esc(title)}</h3><div class="scroll">{grid}</div>'


def latency_plot(series: Sequence[NDArray[Any]], p50: float, p95: float) -> str:
    """Returns inter-token latencies in ms over the token's index, one line per run, from zero."""
    top = max(float(run.max()) for run in series) * 1.06 or 1.0
    longest = max(len(run) for run in series)

    def y(value: float) -> float:
        return _PLOT_HEIGHT * (1 - max(value, 0.0) / top)

    lines = [
        f'<line class="grid-line" x1="0" x2="{_PLOT_WIDTH}" y1="{y(top * at / 4):.1f}" y2="{y(top * at / 4):.1f}"/>'
        for at in range(5)
    ]
    for run in series:
        lines.append(f'<polyline class="run-line" points="{_points(run, longest, y)}"/>')
    for css, value in (("p50", p50), ("p95", p95)):
        lines.append(
            f'<line class="{css}" x1="0" x2="{_PLOT_WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}">'
            f"<title>{css}: {human.time_ms(value)}</title></line>"
        )
    labels = "".join(f"<span>{human.time_ms(top * at / 4) if at else 0}</span>" for at in range(4, -1, -1))
    ticks = "".join(f"<span>{round(1 + (longest - 1) * at / 4)}</span>" for at in range(5 if longest > 4 else 2))
    return (
        f'<div class="plot"><div class="y">{labels}</div>'
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="inter-token latency over tokens">{"".join(lines)}</svg>'
        f'<div class="x">{ticks}</div></div>'
        '<div class="legend"><span><i class="swatch" style="background:var(--c0)"></i>each run</span>'
        f'<span><i class="swatch" style="background:var(--text)"></i>p50 {human.time_ms(p50)}</span>'
        f'<span><i class="swatch" style="background:var(--c1)"></i>p95 {human.time_ms(p95)}</span>'
        "<span>x: output token, y: time since the token before</span></div>"
    )


def _points(run: NDArray[Any], longest: int, y: Any) -> str:
    values = run.tolist()
    step = -(-len(values) // _PLOT_POINTS)  # of a long run the greatest of each few is drawn: peaks must not vanish
    width = max(longest - 1, 1)
    picked = ((at, max(values[at : at + step])) for at in range(0, len(values), step))
    points = [f"{_PLOT_WIDTH * at / width:.1f},{y(value):.1f}" for at, value in picked]
    return " ".join(points if len(points) > 1 else [*points, f"{_PLOT_WIDTH},{y(values[0]):.1f}"])


def timeline(found: Timeline, names: NDArray[Any], op_types: NDArray[Any], palette: Palette) -> str:
    """Returns one strip per thread: ops by colour, waits hatched."""
    records = found.records
    origin, span = int(records["start_ns"].min()), max(found.span_ns, 1)
    lanes = []
    for thread in np.unique(records["thread"])[:64].tolist():
        rects = []
        for record in records[records["thread"] == thread]:
            start_ns, op = int(record["start_ns"]) - origin, int(record["op"])
            compute_ns, wait_ns = max(int(record["compute_ns"]), 0), max(int(record["wait_ns"]), 0)
            label = esc(f"{names[op]} ({op_types[op]}): {human.time_ns(compute_ns)}, wait {human.time_ns(wait_ns)}")
            colour = palette.colour(op_types[op])
            x, end = _LANE_WIDTH * start_ns / span, _LANE_WIDTH * (start_ns + compute_ns) / span
            width = _LANE_WIDTH * wait_ns / span
            rects.append(
                f'<g><title>{label}</title><rect x="{x:.2f}" y="0" width="{end - x:.2f}" height="{_LANE_HEIGHT}" '
                f'fill="{colour}"/>'
            )
            if width >= 0.02:
                shape = f'x="{end:.2f}" y="0" width="{width:.2f}" height="{_LANE_HEIGHT}"'
                rects.append(f'<rect {shape} fill="{colour}" opacity=".22"/><rect {shape} fill="url(#wait)"/>')
            rects.append("</g>")
        lanes.append(
            f'<div class="lane"><span>thread {thread}</span><svg viewBox="0 0 {_LANE_WIDTH} {_LANE_HEIGHT}" '
            f'preserveAspectRatio="none" role="img" aria-label="thread {thread}">{"".join(rects)}</svg></div>'
        )
    ticks = "".join(f"<span>{human.time_ns(span * at / 5)}</span>" for at in range(6))
    return f'<div class="scroll"><div class="timeline">{"".join(lanes)}<div class="ticks">{ticks}</div></div></div>'


#: Patterns that charts refer to; once per page.
DEFINITIONS = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="wait" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" style="stroke:var(--hatch)" stroke-width="2.4"/></pattern></defs></svg>'
)
