"""The report's section of heat: rate, power, temperature and clocks over one time axis, and when the rate stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from melt_core.analysis.energy_channels import supplies_of
from melt_core.analysis.samples import Series, series_of
from melt_core.analysis.sustained import Sustained, sustained
from melt_core.errors import TraceError
from melt_core.report import human
from melt_core.report._charts import esc
from melt_core.report._lines import Band, Line, line_plot
from melt_core.report.energy_text import sustained_rows, watts
from melt_core.trace.format import ChunkKind
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_MAX_LINES = 6
_BIN_S = 0.5
_STATE_COLOURS = {"throttled": 1, "warm": 4}


def thermal_body(segments: Sequence[Trace]) -> str:
    """Returns the section's contents (HTML) for the traces of one run; empty where no temperature or clock was read."""
    if not any(found.kind in ("temperature", "frequency") for trace in segments for found in series_of(trace).values()):
        return ""
    order = sorted(segments, key=lambda trace: trace.header.start_wall_ns)
    try:
        found: Sustained | None = sustained(order)
    except TraceError:
        found = None  # too short for steps of the rate; heat is shown all the same
    return (figures_list(found) if found is not None else "") + plots(order, found)


def figures_list(found: Sustained) -> str:
    """Returns the figures of a sustained run as a list."""
    items = [f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in sustained_rows(found)]
    return f"<dl>{''.join(items)}</dl><br>"


def plots(segments: Sequence[Trace], found: Sustained | None) -> str:
    """Returns rate, power, temperature, clocks and throttling over the time since the first prompt (HTML)."""
    order = sorted(segments, key=lambda trace: trace.header.start_wall_ns)
    zero_ns = order[0].header.start_wall_ns + _first_run_ns(order[0])
    offsets = [(trace.header.start_wall_ns - zero_ns) / NS_PER_S for trace in order]
    groups = {kind: _lines(order, offsets, kind) for kind in ("temperature", "frequency", "throttle")}
    power = _power_lines(order, offsets)
    drawn = [line for lines in (*groups.values(), power) for line in lines]
    span = (
        min((float(line.time_s[0]) for line in drawn), default=0.0),
        max((float(line.time_s[-1]) for line in drawn), default=1.0),
    )
    bands = [] if found is None else _bands(found)
    marks = [] if found is None else [(step.time_s, "the rate steps") for step in found.steps]
    rate = [] if found is None else [_rate_line(found)]
    return "".join(
        (
            line_plot("Tokens per second", rate, human.rate, span_s=span, bands=bands, marks=marks),
            line_plot("Power", power, watts, span_s=span, marks=marks),
            line_plot("Temperature", groups["temperature"], _celsius, span_s=span, marks=marks, from_zero=False),
            line_plot("Clocks", groups["frequency"], lambda value: human.count(value, "Hz"), span_s=span, marks=marks),
            line_plot("Throttling", groups["throttle"], lambda value: human.significant(value), span_s=span),
        )
    )


def _celsius(value: float) -> str:
    return f"{human.significant(value)} degC"


def _first_run_ns(trace: Trace) -> int:
    runs = trace.records(ChunkKind.RUNS)
    return int(runs["start_ns"].min()) if len(runs) else 0


def _lines(order: Sequence[Trace], offsets: Sequence[float], kind: str) -> list[Line]:
    joined: dict[str, list[tuple[Series, float]]] = {}
    for trace, offset_s in zip(order, offsets, strict=True):
        for name, found in series_of(trace).items():
            if found.kind == kind and len(found.values) > 1:
                joined.setdefault(name, []).append((found, offset_s))
    lines = []
    for name, parts in joined.items():
        time_s = np.concatenate([found.time_ns / NS_PER_S + offset_s for found, offset_s in parts])
        values = np.concatenate([found.values for found, _ in parts])
        lines.append(Line(name.partition("/")[0], time_s, values, gap_s=5.0))
    return sorted(lines, key=lambda line: -float(line.values.max()))[:_MAX_LINES]


def _power_lines(order: Sequence[Trace], offsets: Sequence[float]) -> list[Line]:
    joined: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for trace, offset_s in zip(order, offsets, strict=True):
        for supply in supplies_of(trace)[0]:
            time_s = supply.time_ns / NS_PER_S + offset_s
            if supply.is_counter:
                power = np.diff(supply.values) / np.maximum(np.diff(time_s), 1e-9)
                joined.setdefault(supply.name, []).append((time_s[1:], np.where(power >= 0, power, np.nan)))
            else:
                joined.setdefault(supply.name, []).append((time_s, supply.values))
    return [
        Line(name, np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), gap_s=5.0)
        for name, parts in list(joined.items())[:_MAX_LINES]
    ]


def _rate_line(found: Sustained) -> Line:
    """Returns the rate of each half second."""
    time_s, rate = found.tokens["time_s"], found.tokens["tok_s"]
    bins = np.floor(time_s / _BIN_S).astype(np.int64)
    first = np.flatnonzero(np.append(True, np.diff(bins) > 0))
    counts = np.diff(np.append(first, len(bins)))
    spent = np.add.reduceat(1.0 / rate, first)
    return Line("decode", time_s[first], counts / spent, kind="dots")


def _bands(found: Sustained) -> list[Band]:
    states, time_s = found.tokens["state"], found.tokens["time_s"]
    starts = np.flatnonzero(np.append(True, states[1:] != states[:-1]))
    ends = np.append(starts[1:], len(states)) - 1
    bands: Mapping[int, Band] = {
        start: Band(float(time_s[start]), float(time_s[end]), states[start], _STATE_COLOURS[states[start]])
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if states[start] in _STATE_COLOURS
    }
    return list(bands.values())[:200]
