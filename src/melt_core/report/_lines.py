"""Plots of quantities over time, one below the other on one time axis: inline SVG, no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.report import human
from melt_core.report._charts import PLOT_HEIGHT as _HEIGHT
from melt_core.report._charts import PLOT_WIDTH as _WIDTH
from melt_core.report._charts import esc, plot, ticks, x_axis

Array = NDArray[Any]

_POINTS = 1000


@dataclass(frozen=True)
class Line:
    """One quantity over time; a gap longer than `gap_s` is left open. `kind` is "line", or "dots"."""

    label: str
    time_s: Array
    values: Array
    kind: str = "line"
    gap_s: float = float("inf")


@dataclass(frozen=True)
class Band:
    """A stretch of time that is shaded, and what it is."""

    start_s: float
    end_s: float
    label: str
    colour: int


def line_plot(
    title: str,
    lines: Sequence[Line],
    shown: Callable[[float], str],
    *,
    span_s: tuple[float, float],
    bands: Sequence[Band] = (),
    marks: Sequence[tuple[float, str]] = (),
    from_zero: bool = True,
) -> str:
    """Returns one plot; empty where there is nothing to draw.

    Args:
        title: Its heading.
        lines: What to draw; each in a colour of its own.
        shown: Words for a value on the y axis.
        span_s: The time axis, the same for all plots that stand below each other.
        bands: Stretches of time to shade.
        marks: Times to mark with a vertical line, and what they are.
        from_zero: Whether the y axis begins at 0.
    """
    drawn = [line for line in lines if len(line.values) and np.isfinite(line.values).any()]
    if not drawn:
        return ""
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in drawn])
    low, high = 0.0 if from_zero else float(finite.min()), float(finite.max())
    y_ticks = ticks(low, high if high > low else low + (abs(low) * 0.05 or 1.0))
    low, high = y_ticks[0], y_ticks[-1]

    def x(time_s: Array) -> Array:
        return np.asarray(_WIDTH * (time_s - span_s[0]) / max(span_s[1] - span_s[0], 1e-9))

    def y(values: Array) -> Array:
        return np.asarray(_HEIGHT * (1 - (values - low) / (high - low)))

    parts = [_band(band, x) for band in bands]
    for colour, line in enumerate(drawn):
        parts.append(_drawn(line, colour, x, y))
    for time_s, text in marks:
        at = float(x(np.array([time_s]))[0])
        place = f'x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{_HEIGHT}"'
        parts.append(f'<line class="p95" {place}><title>{esc(text)}</title></line>')
    legend = "".join(
        f'<span><i class="swatch" style="background:var(--c{colour})"></i>{esc(line.label)}</span>'
        for colour, line in enumerate(drawn)
    )
    names = {band.label: band.colour for band in bands}
    legend += "".join(
        f'<span><i class="swatch" style="background:var(--c{colour});opacity:.25"></i>{esc(name)}</span>'
        for name, colour in names.items()
    )
    return (
        f"<h3>{esc(title)}</h3>{plot(title, ''.join(parts), y_ticks, shown, x_axis(*span_s, _tick))}"
        f'<div class="legend">{legend}</div><br>'
    )


def _tick(time_s: float) -> str:
    return "0 s" if abs(time_s) < 1e-9 else human.time_ns(time_s * 1e9)


def _band(band: Band, x: Callable[[Array], Array]) -> str:
    start, end = x(np.array([band.start_s, band.end_s])).tolist()
    shape = f'x="{start:.1f}" y="0" width="{max(end - start, 0.5):.1f}" height="{_HEIGHT}"'
    return f'<rect {shape} style="fill:var(--c{band.colour});opacity:.13"><title>{esc(band.label)}</title></rect>'


def _drawn(line: Line, colour: int, x: Callable[[Array], Array], y: Callable[[Array], Array]) -> str:
    kept = np.isfinite(line.values)
    time_s, values = _thinned(line.time_s[kept], line.values[kept])
    across, up = x(time_s), y(values)
    if line.kind == "dots":
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>' for a, b in zip(across, up, strict=True))
        return f'<g style="fill:var(--c{colour})">{dots}</g>'
    style = f"fill:none;stroke:var(--c{colour});stroke-width:1.6;vector-effect:non-scaling-stroke"
    pieces = np.split(np.arange(len(time_s)), np.flatnonzero(np.diff(time_s) > line.gap_s) + 1)
    drawn = []
    for piece in pieces:
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across[piece], up[piece], strict=True))
        drawn.append(f'<polyline style="{style}" points="{points}"/>')
    return "".join(drawn)


def _thinned(time_s: Array, values: Array) -> tuple[Array, Array]:
    """Returns at most so many points: of each few neighbours the lowest and the highest, so that peaks stay."""
    n = len(values)
    if n <= _POINTS:
        return time_s, values
    step = -(-2 * n // _POINTS)
    rows: list[int] = []
    for start in range(0, n, step):
        piece = values[start : start + step]
        rows += sorted({start + int(np.argmin(piece)), start + int(np.argmax(piece))})
    return time_s[rows], values[rows]
