"""Charts as plain HTML and inline SVG: they scale with the page and need no script. Every text is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.views import LayerTimes, Timeline
from melt_core.report import human
from melt_core.report._style import N_COLOURS

_PLOT_POINTS = 1500
PLOT_WIDTH, PLOT_HEIGHT = 1000, 230
_LANE_WIDTH, _LANE_HEIGHT = 1000, 34


def esc(value: Any) -> str:
    """Returns any value as text that is safe in HTML, in attributes too."""
    return html.escape(plain(value), quote=True)


def plain(value: Any) -> str:
    """Returns any value as one line of printable text in which ends of lines can be seen."""
    return human.plain(value.replace("\r\n", "\n").replace("\n", "\u21b5") if isinstance(value, str) else value)


def kind_tag(kind: str | None) -> str:
    """Returns the label that says how a figure was obtained: measured, derived, modelled or simulated."""
    return f' <span class="kind">{esc(kind)}</span>' if kind else ""


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
    """Returns horizontal bars; one of 100 % would fill the width."""
    cells = []
    for row in rows:
        width = 100 * min(max(_finite(row.share), 0.0), 1.0)
        wait = 100 * min(max(_finite(row.wait_ratio), 0.0), 1.0)
        title = (
            f"{row.name}: {human.percent(row.share)}, {human.time_ns(row.time_ns)}; {wait:.1f} % of thread time waits"
        )
        cells.append(
            f'<div class="name" title="{esc(row.name)}">{esc(row.name)}</div>'
            f'<div class="track" title="{esc(title)}"><div class="bar" style="width:{width:.2f}%">'
            f'<i style="width:{100 - wait:.2f}%;background:{row.colour}"></i>'
            f'<i class="wait" style="width:{wait:.2f}%;background-color:{row.colour}"></i></div></div>'
            f'<div class="num">{esc(human.percent(row.share))} <span>{human.time_ns(row.time_ns)}</span></div>'
        )
    return f'<div class="bars">{"".join(cells)}</div>'


def strip(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Returns a small dot plot of repeated values, from the least to the greatest, which stand at its ends."""
    low, high = min(values), max(values)
    span = high - low
    dots = "".join(
        f'<circle class="dot" cx="{100 * (value - low) / span if span > 0 else 50:.1f}%" cy="7" r="3.2" opacity=".6">'
        f"<title>{esc(shown(value))}</title></circle>"
        for value in values[:200]
    )
    line = '<line class="grid-line" x1="0" x2="100%" y1="7" y2="7"/>'
    return (
        f'<svg role="img" aria-label="{len(values)} values">{line}{dots}</svg>'
        f'<div class="ends"><span>{esc(shown(low))}</span><span>{esc(shown(high))}</span></div>'
    )


def _round_step(least: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of ten that is no less than `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least * (1 - 1e-9)), 10 * power)


def ticks(low: float, high: float, n: int = 6, *, inside: bool = False, least_step: float = 0.0) -> list[float]:
    """Returns about `n` round numbers at equal distances: from `low` or below to `high` or above, or only those inside.

    They differ in their first three digits, which is what is shown of a number.
    """
    span = high - low
    if not 1e-290 < span < 1e290:
        return [low, high]
    three_digits = 10.0 ** (math.floor(math.log10(max(abs(low), abs(high)))) - 2)
    step = _round_step(max(span / n, three_digits, least_step))
    first, last = low / step, high / step
    if inside:
        numbers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    else:
        start = math.floor(first + 1e-9)
        numbers = range(start, max(math.ceil(last - 1e-9), start + 1) + 1)  # two at least: an axis has a length
    return [number * step for number in numbers]


def tick_label(text: str) -> str:
    """Returns a number with its unit, "4.00 ms", as it stands at an axis: "4 ms", and "0" without a unit."""
    amount, space, unit = text.partition(" ")
    if "." in amount and "e" not in amount:
        amount = amount.rstrip("0").rstrip(".")
    return "0" if amount == "0" else f"{amount}{space}{unit}"


def x_axis(low: float, high: float, shown: Callable[[float], str], *, n: int = 4, least_step: float = 0.0) -> str:
    """Returns the labels below a plot that reaches from `low` to `high`, each under its place."""
    labels = []
    for value in ticks(low, high, n, inside=True, least_step=least_step):
        at = 100 * (value - low) / ((high - low) or 1.0)
        shift = 25 if at < 4 else 75 if at > 96 else 50  # no farther out than the padding around
        label = esc(tick_label(shown(value)))
        labels.append(f'<span style="left:{at:.2f}%;transform:translateX(-{shift}%)">{label}</span>')
    return f'<div class="x at">{"".join(labels)}</div>'


def plot(name: str, drawn: str, y: Sequence[float], y_shown: Callable[[float], str], x_labels: str) -> str:
    """Returns a plot: what is drawn at `PLOT_WIDTH` x `PLOT_HEIGHT`, a line and a label at each of the ticks `y`."""
    heights = [PLOT_HEIGHT * at / (len(y) - 1) for at in range(len(y))]
    grid = "".join(f'<line class="grid-line" x1="0" x2="{PLOT_WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>' for at in heights)
    labels = "".join(f"<span>{esc(tick_label(y_shown(value)))}</span>" for value in reversed(y))
    return (
        f'<div class="plot"><div class="y">{labels}</div>'
        f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{esc(name)}">{grid}{drawn}</svg>{x_labels}</div>'
    )


def heat(times: LayerTimes, title: str) -> str:
    """Returns a strip of layers per module; the stronger the colour, the more time per step."""
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
    every = int(max(1, _round_step(n_layers / 16)))
    cells.append('<div class="row"></div>')
    cells += [f'<div class="tick">{layer if at % every == 0 else ""}</div>' for at, layer in enumerate(times.layers)]
    grid = f'<div class="heat" style="{columns}">{"".join(cells)}<div></div></div>'
    return f'<h3>{esc(title)}</h3><div class="scroll">{grid}</div>'


def latency_plot(series: Sequence[NDArray[Any]], p50: float, p95: float) -> str:
    """Returns inter-token latencies in ms over the token's index, one line per run, from zero."""
    y_ticks = ticks(0.0, max(float(run.max()) for run in series) or 1.0)
    longest = max(len(run) for run in series)

    def y(value: float) -> float:
        return PLOT_HEIGHT * (1 - max(value, 0.0) / y_ticks[-1])

    lines = [f'<polyline class="run-line" points="{_points(run, longest, y)}"/>' for run in series]
    for css, value in (("p50", p50), ("p95", p95)):
        lines.append(
            f'<line class="{css}" x1="0" x2="{PLOT_WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}">'
            f"<title>{css}: {human.time_ms(value)}</title></line>"
        )
    x_labels = x_axis(2, longest + 1, "{:g}".format, least_step=1)  # the first of the times is that of the second token
    return (
        f"{plot('inter-token latency over tokens', ''.join(lines), y_ticks, human.time_ms, x_labels)}"
        '<div class="legend"><span><i class="swatch" style="background:var(--c0)"></i>each run</span>'
        f'<span><i class="swatch" style="background:var(--text)"></i>p50 {human.time_ms(p50)}</span>'
        f'<span><i class="swatch" style="background:var(--c1)"></i>p95 {human.time_ms(p95)}</span>'
        "<span>p50, p95: median over the runs</span><span>x: output token, y: time since the token before</span></div>"
    )


def _points(run: NDArray[Any], longest: int, y: Any) -> str:
    values = run.tolist()
    step = -(-len(values) // _PLOT_POINTS)  # of a long run the greatest of each few is drawn: peaks must not vanish
    width = max(longest - 1, 1)
    picked = ((at, max(values[at : at + step])) for at in range(0, len(values), step))
    points = [f"{PLOT_WIDTH * at / width:.1f},{y(value):.1f}" for at, value in picked]
    return " ".join(points if len(points) > 1 else [*points, f"{PLOT_WIDTH},{y(values[0]):.1f}"])


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
    axis = f'<div class="ticks">{x_axis(0, span, human.time_ns, n=6)}</div>'
    return f'{SCROLL_HINT}<div class="scroll"><div class="timeline">{"".join(lanes)}{axis}</div></div>'


#: Above what is always wider than a phone, and shown there only; tables have a shadow at the edge instead.
SCROLL_HINT = '<p class="hint">Scroll it sideways to see all &rarr;</p>'

#: Patterns that charts refer to; once per page.
DEFINITIONS = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="wait" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" style="stroke:var(--hatch)" stroke-width="2.4"/></pattern></defs></svg>'
)
