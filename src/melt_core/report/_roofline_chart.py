"""The roofline as SVG: intensity against FLOP/s, both logarithmic; bubbles are ops, their area is their time.

Inside a report the page's style sheet gives the colours; a file of its own carries them, for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt_core.report import human
from melt_core.report._charts import SCROLL_HINT, esc

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Roofline, RooflineRow

_WIDTH, _HEIGHT = 1000, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 24, 24, 56
_MAX_RADIUS, _MIN_RADIUS = 26.0, 3.5
_MAX_LABELS = 18
_MIN_LABEL_SHARE = 0.01
_CHAR_WIDTH, _LINE_HEIGHT = 7.1, 15.0
_SAME_ROOF = 1.08  # roofs closer than this are drawn as one
_MAX_ROOFS = 4
_COLOUR_OF_PHASE = {"prefill": "var(--c1)", "decode": "var(--c0)"}

#: For the chart inside a page that has the report's colours.
CHART_CSS = """
.roofline { width: 100%; height: auto; min-width: 640px; display: block; }
.roofline text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  fill: var(--text); }
.roofline .tick, .roofline .roof-name { fill: var(--soft); font-size: 12px; }
.roofline .grid { stroke: var(--line); stroke-width: 1; }
.roofline .roof { stroke: var(--text); stroke-width: 2; fill: none; stroke-linecap: round; }
.roofline .roof.minor { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 6 4; }
.roofline .ridge { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; }
.roofline .halo { paint-order: stroke; stroke: var(--card); stroke-width: 3.5px; stroke-linejoin: round; }
.roofline .leader { stroke: var(--soft); stroke-width: .8; }
"""
_COLOURS = """
:root { color-scheme: light dark; --card: #ffffff; --line: #e1e5ea; --text: #1c2430; --soft: #5d6878;
  --c0: #2f6fd6; --c1: #e0762f; }
@media (prefers-color-scheme: dark) { :root { --card: #181e26; --line: #2a323d; --text: #e6eaf0; --soft: #98a4b3;
  --c0: #6da2f2; --c1: #f0985c; } }
.page { fill: var(--card); }
"""


@dataclass(frozen=True)
class _Scale:
    """Logarithmic, from powers of ten to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        at = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + at * (self.end - self.start)

    @property
    def decades(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


@dataclass(frozen=True)
class _Box:
    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: _Box) -> float:
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return width * height if width > 0 and height > 0 else 0.0


@dataclass(frozen=True)
class _Bubble:
    row: RooflineRow
    phase: str
    x: float
    y: float
    radius: float

    @property
    def box(self) -> _Box:
        return _Box(self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


def standalone(found: Sequence[Roofline], title: str) -> str:
    """Returns the chart as an SVG file of its own; `title` is shown above it."""
    style = _COLOURS + CHART_CSS.replace("min-width: 640px; ", "")
    height = _HEIGHT + 64
    legend = "".join(
        f'<circle cx="{_LEFT + 8 + 100 * at}" cy="50" r="6" fill="{_COLOUR_OF_PHASE.get(each.phase, "var(--c0)")}" '
        f'fill-opacity=".65"/><text class="tick" x="{_LEFT + 20 + 100 * at}" y="54">{esc(each.phase)}</text>'
        for at, each in enumerate(found)
    )
    note = f'<text class="tick" x="{_LEFT + 20 + 100 * len(found)}" y="54">the area of a bubble is its time</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="roofline" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}"><style>{style}</style><rect class="page" width="{_WIDTH}" height="{height}"/>'
        f'<text x="{_LEFT}" y="28" style="font-size:16px;font-weight:650">{esc(title)}</text>{legend}{note}'
        f'<g transform="translate(0 64)">{_drawing(found)}</g></svg>\n'
    )


def inline(found: Sequence[Roofline]) -> str:
    """Returns the chart for a page with the report's style sheet and `CHART_CSS`."""
    return (
        f'{SCROLL_HINT}<div class="scroll"><svg class="roofline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="roofline: arithmetic intensity against FLOP/s">{_drawing(found)}</svg></div>'
    )


def can_draw(found: Sequence[Roofline]) -> bool:
    """Tells whether any op has a place on the chart: FLOPs, bytes and a ceiling."""
    return any(_is_drawn(row) for each in found for row in each.rows)


def left_out(found: Sequence[Roofline]) -> list[str]:
    """Returns the keys that the chart lacks, in order: without FLOPs, or without a formula."""
    return list(dict.fromkeys(row.key or "other" for each in found for row in each.rows if not _is_drawn(row)))


def _is_drawn(row: RooflineRow) -> bool:
    values = (row.intensity_flop_per_byte, row.flop_per_s)
    return all(value is not None and math.isfinite(value) and value > 0 for value in values)


def _drawing(found: Sequence[Roofline]) -> str:
    bandwidths = _distinct((rate, f"{human.size_bytes(rate)}/s at {human.size_bytes(size)}")
                           for each in found for size, rate in each.bandwidths)  # fmt: skip
    rates = _distinct((rate, f"{human.count(rate, 'FLOP/s')} {name}") for each in found for name, rate in each.rates)
    bandwidths.sort()  # the slowest, memory's, is the roof that weights are under
    x, y = _scales(found, bandwidths, rates)
    bubbles = list(_bubbles(found, x, y))
    taken: list[_Box] = []
    roofs = _roofs(bandwidths, rates, x, y, taken)
    drawn = "".join(_circle(bubble) for bubble in bubbles)
    return _axes(x, y) + roofs + drawn + _labels(bubbles, taken)


def _distinct(roofs: Iterator[tuple[float, str]]) -> list[tuple[float, str]]:
    """Returns the first few, those of most time, without those that would be drawn onto another."""
    kept: list[tuple[float, str]] = []
    for value, name in roofs:
        if all(max(value, other) / min(value, other) > _SAME_ROOF for other, _ in kept):
            kept.append((value, name))
    return kept[:_MAX_ROOFS]


def _scales(
    found: Sequence[Roofline], bandwidths: Sequence[tuple[float, str]], rates: Sequence[tuple[float, str]]
) -> tuple[_Scale, _Scale]:
    rows = [row for each in found for row in each.rows if _is_drawn(row)]
    intensities = [row.intensity_flop_per_byte or 1.0 for row in rows] or [1.0]
    speeds = [row.flop_per_s or 1.0 for row in rows] or [1.0]
    ridges = [rate / bandwidth for rate, _ in rates for bandwidth, _ in bandwidths]
    x_low, x_high = _decades([*intensities, *ridges], below=1.6, above=4.0)
    y_low, y_high = _decades([*speeds, *(rate for rate, _ in rates)], below=2.0, above=1.8)
    return _Scale(x_low, x_high, _LEFT, _WIDTH - _RIGHT), _Scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)


def _decades(values: Sequence[float], *, below: float, above: float) -> tuple[float, float]:
    low, high = min(values) / below, max(values) * above
    return (low, high) if high / low > 30 else (low / 3, high * 3)


def _axes(x: _Scale, y: _Scale) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" class="grid" fill="none"/>'
    ]
    for value in x.decades:
        at, label = x(value), human.significant(value, 1)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for value in y.decades:
        at = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        label = human.count(value, "FLOP/s").replace(".00 ", " ").replace(".0 ", " ")
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    middle = (_LEFT + right) / 2
    title = "arithmetic intensity, FLOP per byte"
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">{title}</text>')
    return "".join(parts)


def _roofs(
    bandwidths: Sequence[tuple[float, str]],
    rates: Sequence[tuple[float, str]],
    x: _Scale,
    y: _Scale,
    taken: list[_Box],
) -> str:
    """Draws the slopes up to the highest rate, the rates from the steepest slope on, and the ridge of the main ones."""
    parts: list[str] = []
    top = max((rate for rate, _ in rates), default=y.high)
    steepest = max((bandwidth for bandwidth, _ in bandwidths), default=None)
    for at, (bandwidth, name) in enumerate(bandwidths):
        start = max(x.low, y.low / bandwidth)
        end = min(x.high, top / bandwidth)
        if end <= start:
            continue
        parts.append(_roof((start, end), (start * bandwidth, end * bandwidth), x, y, minor=at > 0))
        parts.append(_slope_name(name, bandwidth, start, end, at, x, y))
    for at, (rate, name) in enumerate(rates):
        start = x.low if steepest is None else max(x.low, rate / steepest)
        parts.append(_roof((start, x.high), (rate, rate), x, y, minor=at > 0))
        box = _name_box(name, _WIDTH - _RIGHT - 6 - len(name) * _CHAR_WIDTH, y(rate) - 19)
        while any(box.overlap(other) for other in taken):
            box = _name_box(name, box.x0, box.y0 + 19)
        taken.append(box)
        parts.append(
            f'<text class="roof-name halo" x="{_WIDTH - _RIGHT - 6}" y="{box.y1 - 3:.1f}" text-anchor="end">'
            f"{esc(name)}</text>"
        )
    parts += [_ridge(bandwidth, rate, x, y) for bandwidth, _ in bandwidths[:1] for rate, _ in rates[:2]]
    return "".join(parts)


def _ridge(bandwidth: float, rate: float, x: _Scale, y: _Scale) -> str:
    at, bottom = x(rate / bandwidth), _HEIGHT - _BOTTOM
    name = f"ridge {human.significant(rate / bandwidth, 2)}"
    return (
        f'<line class="ridge" x1="{at:.1f}" x2="{at:.1f}" y1="{y(rate):.1f}" y2="{bottom}"/>'
        f'<text class="roof-name halo" transform="translate({at - 5:.1f} {bottom - 8}) rotate(-90)">{name}</text>'
    )


def _roof(xs: tuple[float, float], ys: tuple[float, float], x: _Scale, y: _Scale, *, minor: bool) -> str:
    css = "roof minor" if minor else "roof"
    return f'<path class="{css}" d="M{x(xs[0]):.1f} {y(ys[0]):.1f}L{x(xs[1]):.1f} {y(ys[1]):.1f}"/>'


def _slope_name(name: str, bandwidth: float, start: float, end: float, at: int, x: _Scale, y: _Scale) -> str:
    """Writes a slope's name along it, each at another place so that close slopes keep theirs apart."""
    along = (0.86, 0.55, 0.3, 0.1)[at % 4]
    position = 10 ** (math.log10(start) + along * (math.log10(end) - math.log10(start)))
    rise = y(start * bandwidth) - y(end * bandwidth)
    angle = -math.degrees(math.atan2(rise, x(end) - x(start)))
    anchor = "end" if along > 0.7 else "middle" if along > 0.2 else "start"
    x_at, y_at = x(position), y(position * bandwidth)
    return (
        f'<text class="roof-name halo" transform="translate({x_at:.1f} {y_at:.1f}) rotate({angle:.1f})" y="-8" '
        f'text-anchor="{anchor}">{esc(name)}</text>'
    )


def _bubbles(found: Sequence[Roofline], x: _Scale, y: _Scale) -> Iterator[_Bubble]:
    """Yields the bubbles, large ones first, so that small ones stay visible on top."""
    made = []
    for each in found:
        for row in each.rows:
            if _is_drawn(row):
                radius = max(_MAX_RADIUS * math.sqrt(min(max(row.share, 0.0), 1.0)), _MIN_RADIUS)
                position = x(row.intensity_flop_per_byte or 1.0), y(row.flop_per_s or 1.0)
                made.append(_Bubble(row, each.phase, *position, radius))
    yield from sorted(made, key=lambda bubble: -bubble.radius)


def _circle(bubble: _Bubble) -> str:
    row, colour = bubble.row, _COLOUR_OF_PHASE.get(bubble.phase, "var(--c0)")
    label = (
        f"{row.key or 'other'}, {bubble.phase}: {human.percent(row.share)} of op time; "
        f"{human.size_bytes(row.bytes_per_s)}/s, {human.count(row.flop_per_s, 'FLOP/s')}, "
        f"{human.percent(row.ceiling_ratio)} of its ceiling ({row.bound or 'unknown'})"
    )
    return (
        f'<circle cx="{bubble.x:.1f}" cy="{bubble.y:.1f}" r="{bubble.radius:.1f}" fill="{colour}" fill-opacity=".55" '
        f'stroke="{colour}" stroke-width="1.2"><title>{esc(label)}</title></circle>'
    )


def _labels(bubbles: Sequence[_Bubble], taken: list[_Box]) -> str:
    """Names the largest bubbles where there is room: beside, above or below, else farther off with a line to them."""
    parts, obstacles = [], [bubble.box for bubble in bubbles]
    named = [bubble for bubble in bubbles if bubble.row.share >= _MIN_LABEL_SHARE]
    for bubble in named[:_MAX_LABELS]:
        name = human.plain(bubble.row.key or "other")
        name = name if len(name) <= 28 else name[:27] + "~"
        own = bubble.box
        best, cost = None, math.inf
        for rank, box in enumerate(_places(name, bubble)):
            if box.x0 < _LEFT + 2 or box.x1 > _WIDTH - _RIGHT or box.y0 < _TOP or box.y1 > _HEIGHT - _BOTTOM:
                continue
            hidden = 4 * sum(box.overlap(other) for other in taken)
            hidden += sum(box.overlap(other) for other in obstacles if other != own)
            if hidden + rank < cost:
                best, cost = (rank, box), hidden + rank
        if best is None or cost > 0.5 * len(name) * _CHAR_WIDTH * _LINE_HEIGHT:
            continue
        rank, box = best
        taken.append(box)
        parts.append(_label(name, bubble, box, with_leader=rank >= 4))
    return "".join(parts)


def _places(name: str, bubble: _Bubble) -> Iterator[_Box]:
    width, reach = len(name) * _CHAR_WIDTH, bubble.radius + 4
    x, y, half = bubble.x, bubble.y, _LINE_HEIGHT / 2
    yield _name_box(name, x + reach, y - half)
    yield _name_box(name, x - reach - width, y - half)
    yield _name_box(name, x - width / 2, y - reach - _LINE_HEIGHT)
    yield _name_box(name, x - width / 2, y + reach)
    for distance in (14, 30):
        for side, up in ((1, -1), (1, 1), (-1, -1), (-1, 1)):
            x0 = x + reach + distance / 2 if side > 0 else x - reach - distance / 2 - width
            yield _name_box(name, x0, y - half + up * (reach + distance))


def _name_box(name: str, x0: float, y0: float) -> _Box:
    return _Box(x0, y0, x0 + len(name) * _CHAR_WIDTH, y0 + _LINE_HEIGHT)


def _label(name: str, bubble: _Bubble, box: _Box, *, with_leader: bool) -> str:
    is_left = box.x1 <= bubble.x
    x_at, anchor = (box.x1, "end") if is_left else (box.x0, "start")
    if not with_leader and not is_left and box.x0 < bubble.x:
        x_at, anchor = bubble.x, "middle"
    line = ""
    if with_leader:
        middle = (box.y0 + box.y1) / 2
        line = (
            f'<line class="leader" x1="{bubble.x:.1f}" y1="{bubble.y:.1f}" '
            f'x2="{x_at + (3 if is_left else -3):.1f}" y2="{middle:.1f}"/>'
        )
    text = f'<text class="halo" x="{x_at:.1f}" y="{box.y1 - 4:.1f}" text-anchor="{anchor}">{esc(name)}</text>'
    return line + text
