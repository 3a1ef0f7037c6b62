"""The sections of a report, each a function from one trace to HTML. What a trace lacks is said, not left blank."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from melt_core.analysis.group import key_averages
from melt_core.analysis.memory import has_memory
from melt_core.analysis.stats import Stat
from melt_core.analysis.summary import Summary, run_series, summarize
from melt_core.analysis.views import layer_times, n_steps, slowest_ops, token_timeline
from melt_core.report import _charts as charts
from melt_core.report import human
from melt_core.report._charts import Bar, Palette, esc, kind_tag
from melt_core.report._counters import counters_body
from melt_core.report._energy import energy_body
from melt_core.report._memory import memory_body
from melt_core.report._thermal import thermal_body
from melt_core.report.activations import activations_body
from melt_core.trace.format import ClockId, Phase
from melt_core.trace.metadata import number

if TYPE_CHECKING:
    from melt_core.trace.table import Table
    from melt_core.trace.trace import Trace

_TOP_BARS = 9
_MAX_METADATA_ROWS = 200

#: What it is called, where it is in a summary, how it is written, and its label in docs/measuring_honestly.md.
FIGURES: tuple[tuple[str, str, Callable[[float | None], str], str], ...] = (
    ("Time to first token (TTFT)", "ttft_ms", human.time_ms, "measured"),
    ("Prefill", "prefill_tok_s", human.rate, "derived"),
    ("Decode", "decode_tok_s", human.rate, "derived"),
    ("Inter-token latency (ITL), p50", "itl_p50_ms", human.time_ms, "derived"),
    ("Inter-token latency (ITL), p95", "itl_p95_ms", human.time_ms, "derived"),
    ("Inter-token latency (ITL), p99", "itl_p99_ms", human.time_ms, "derived"),
    ("Time per output token (TPOT)", "tpot_ms", human.time_ms, "derived"),
    ("Load", "load_ms", human.time_ms, "measured"),
)


@dataclass(frozen=True)
class Subject:
    """A trace with what several sections need of it."""

    trace: Trace
    summary: Summary
    title: str
    label: str
    palette: Palette

    @classmethod
    def of(cls, trace: Trace, position: int) -> Subject:
        """Works out the summary, the title and the colours."""
        summary = summarize(trace)
        named = PurePath(summary.model).name if summary.model else None
        title = named or (PurePath(trace.path).stem if trace.path else f"trace {position + 1}")
        if summary.quantization and summary.quantization.lower() not in title.lower():
            title = f"{title} {summary.quantization}"
        label = PurePath(trace.path).stem if trace.path else f"{position + 1}: {title}"
        ranked = key_averages(trace)["key"].tolist()
        return cls(trace, summary, title, label, Palette.of(ranked))

    def kind(self, kind: str) -> str:
        """Returns the label of a figure that comes from the trace's clock: `kind`, if the clock is a real one."""
        return "simulated" if self.trace.header.clock_id == ClockId.SIMULATED else kind


def trace_sections(subject: Subject, *, is_first: bool) -> str:
    """Returns all sections of one trace."""
    makers: tuple[Callable[[Subject], str], ...] = (
        _warnings,
        _figures,
        _trust,
        _where_time_goes,
        _layers,
        _latency,
        _one_token,
        _slowest,
        _counters,
        _memory,
        _energy,
        _thermal,
        _metadata,
    )
    return _header(subject, is_first=is_first) + "".join(maker(subject) for maker in makers)


def section(title: str, note: str, body: str, kind: str | None = None) -> str:
    """Returns one card with a heading, a line that says how to read it, and its contents (HTML).

    `kind` is the label of all its numbers, if they have one in common.
    """
    return f'<section><h2>{esc(title)}{kind_tag(kind)}</h2><p class="note">{esc(note)}</p>{body}</section>'


def _header(subject: Subject, *, is_first: bool) -> str:
    summary, metadata = subject.summary, subject.trace.metadata
    runtime = " ".join(part for part in (summary.runtime, summary.runtime_version) if part) or "unknown runtime"
    where = summary.device or "unknown device"
    chips = [
        ("runs", f"{summary.n_runs} + {summary.n_warmup} warm-up"),
        ("tokens", None if summary.n_prompt is None else f"{summary.n_prompt} in, {summary.n_output} out"),
        ("threads", summary.n_threads),
        ("context", number(metadata, "config", "n_ctx")),
        ("recorded", _date(subject.trace.header.start_wall_ns)),
        ("file", PurePath(subject.trace.path).name if subject.trace.path else None),
    ]
    items = "".join(f"<li>{esc(name)} <b>{esc(_whole(value))}</b></li>" for name, value in chips if value is not None)
    css = "trace" if is_first else "trace next"
    kicker = "melt report" if is_first else subject.label
    return (
        f'<header class="{css}"><div class="kicker">{esc(kicker)}</div><h1>{esc(subject.title)}</h1>'
        f'<div class="sub">{esc(runtime)} on {esc(where)}</div><ul class="chips">{items}</ul></header>'
    )


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _date(wall_ns: int) -> str | None:
    if wall_ns <= 0:
        return None
    try:
        return datetime.datetime.fromtimestamp(wall_ns / 1e9, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return None


def _warnings(subject: Subject) -> str:
    warnings = subject.summary.warnings
    if not warnings:
        return ""
    items = "".join(f"<li>{esc(text)}</li>" for text in warnings[:50])
    return f'<section class="warnings"><h2>Before you trust these numbers</h2><ul>{items}</ul></section>'


def _figures(subject: Subject) -> str:
    summary = subject.summary
    cards = [
        *(_card(label, getattr(summary, name), shown, subject.kind(kind)) for label, name, shown, kind in FIGURES),
        _plain_card("Peak memory", human.size_bytes(summary.peak_rss_bytes), "of the process, so far", "measured"),
    ]
    return f'<div class="figures">{"".join(cards)}</div>'


def _card(label: str, stat: Stat | None, shown: Callable[[float | None], str], kind: str) -> str:
    if stat is None:
        return _plain_card(label, human.MISSING, "not in this trace", kind)
    spread = f"IQR {shown(stat.iqr)} &middot; n = {stat.n}" if stat.n > 1 else "n = 1"
    dots = charts.strip(stat.values, shown) if stat.n > 1 else ""
    return _plain_card(label, shown(stat.median), spread, kind, dots)


def _plain_card(label: str, value: str, spread_html: str, kind: str, extra_html: str = "") -> str:
    amount, _, unit = value.partition(" ")
    return (
        f'<div class="figure"><div class="label"><span>{esc(label)}</span>{kind_tag(kind)}</div>'
        f'<div class="value">{esc(amount)}<small>{esc(unit) if unit else ""}</small></div>'
        f'<div class="spread">{spread_html}</div>{extra_html}</div>'
    )


def _trust(subject: Subject) -> str:
    summary = subject.summary
    cost, kept, ops, gap = summary.overhead, summary.conservation, summary.ops, summary.graph_gap
    if kept.median is None:
        conserved = f"unknown: {kept.reason}"
    else:
        conserved = f"{kept.median:.2%} of graph time is inside an op (least {kept.min:.2%}, {kept.n_graphs} graphs)"
    gaps = (human.percent(gap.prefill_ratio), human.percent(gap.decode_ratio))
    rows = [
        ("Overhead, decode", f"{human.overhead(cost.decode_ratio, cost.decode_ci95)}; {cost.decode_pairs} pairs"),
        ("Overhead, prefill", f"{human.overhead(cost.prefill_ratio, cost.prefill_ci95)}; {cost.prefill_pairs} pairs"),
        ("Conservation", conserved),
        ("Outside graphs", f"{gaps[0]} of the prefill phase, {gaps[1]} of the decode phase (sampling, the runtime)"),
        (
            "Records",
            f"{ops.records} over all threads, of {ops.groups} op groups in {ops.graphs} graphs; {ops.dropped} dropped",
        ),
        *(
            [("Disturbed", human.disturbed(summary.disturbed.groups, ops.groups, summary.disturbed.reason))]
            if summary.disturbed
            else []
        ),
        *((f"Missing: {name}", reason) for name, reason in summary.missing.items()),
    ]
    note = "What recording cost, and whether the parts add up to the whole. Records and graphs are counted."
    return section("Can these numbers be trusted?", note, _definition_list(rows), subject.kind("derived"))


def _definition_list(rows: list[tuple[str, Any]]) -> str:
    items = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in rows)
    return f"<dl>{items}</dl>"


def _where_time_goes(subject: Subject) -> str:
    columns = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        steps = n_steps(subject.trace, phase)
        name = phase.name.lower()
        by_type = key_averages(subject.trace, group_by="op_type", phase=name)
        if not len(by_type) or not steps:
            continue
        per = "run" if phase is Phase.PREFILL else "token"
        title = f"{name.capitalize()}, per {per}"
        columns.append(f"<div><h3>{esc(title)}</h3>{charts.bars(_bars(by_type, steps, subject.palette))}</div>")
    if not columns:
        return section("Where the time goes", "No op was recorded: profile with the level ops to see this.", "")
    modules = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        by_module = key_averages(subject.trace, group_by="module", phase=phase.name.lower())
        if len(by_module):
            rows = _bars(by_module, max(n_steps(subject.trace, phase), 1), None)
            modules.append(f"<div><h3>{phase.name.capitalize()}, by module</h3>{charts.bars(rows)}</div>")
    waits = '<span><i class="swatch hatched"></i>part of the threads\' time spent waiting at barriers</span>'
    legend = subject.palette.legend(waits)
    note = (
        "Share of the main thread's time by op type and by module, and the time per step. "
        "A bar of 100 % would fill its row."
    )
    body = f'<div class="columns">{"".join(columns)}</div><br><div class="columns">{"".join(modules)}</div>{legend}'
    return section("Where the time goes", note, body, subject.kind("derived"))


def _bars(table: Table, steps: int, palette: Palette | None) -> list[Bar]:
    rows = []
    for row in table.head(_TOP_BARS):
        spent = row.compute_ns + row.wait_ns
        colour = "var(--c0)" if palette is None else palette.colour(row.key or "")
        wait_ratio = row.wait_ns / spent if spent > 0 else 0.0
        rows.append(Bar(row.key or "other", row.share or 0.0, row.wall_ns / steps, wait_ratio, colour))
    rest = table[_TOP_BARS:]
    if len(rest):
        wall, wait, compute = (float(rest[name].sum(dtype=np.float64)) for name in ("wall_ns", "wait_ns", "compute_ns"))
        wait_ratio = wait / (wait + compute) if wait + compute > 0 else 0.0
        rows.append(Bar(f"{len(rest)} others", float(rest["share"].sum()), wall / steps, wait_ratio, "var(--c7)"))
    return rows


def _layers(subject: Subject) -> str:
    strips = []
    for phase in (Phase.DECODE, Phase.PREFILL):
        times = layer_times(subject.trace, phase)
        if times is not None:
            unit = "one token" if phase is Phase.DECODE else "one run"
            strips.append(charts.heat(times, f"{phase.name.capitalize()}: time of {unit}, by layer"))
    if not strips:
        return ""
    note = "The stronger the colour of a cell, the more main-thread time the layer takes; one scale per strip."
    return section("Layer by layer", note, "<br>".join(strips), subject.kind("derived"))


def _latency(subject: Subject) -> str:
    series = [run.itl_ms for run in run_series(subject.trace) if len(run.end_ns) > 2]
    p50, p95 = subject.summary.itl_p50_ms, subject.summary.itl_p95_ms
    if not series or p50 is None or p95 is None:
        return ""
    note = (
        "Every inter-token latency of every measured run, on one scale from zero. p50 and p95 are those above: "
        "of each run, then the median over the runs."
    )
    body = charts.latency_plot(series, p50.median, p95.median)
    return section("Decode latency over tokens", note, body, subject.kind("measured"))


def _one_token(subject: Subject) -> str:
    found = token_timeline(subject.trace)
    if found is None:
        return ""
    definitions = subject.trace.op_definitions
    body = charts.timeline(found, definitions["op"], definitions["op_type"], subject.palette)
    left_out = f" The shortest {found.n_left_out} ops are not drawn." if found.n_left_out else ""
    note = (
        f"The {found.phase} step of median length: run {found.run}, token {found.index}, "
        f"{human.time_ns(found.span_ns)} from its first op to its last.{left_out} Point at an op for its name; "
        "hatched is waiting at a barrier."
    )
    waits = '<span><i class="swatch hatched"></i>wait</span>'
    body += subject.palette.legend(waits)
    return section("One token, thread by thread", note, body, subject.kind("measured"))


def _slowest(subject: Subject) -> str:
    found = slowest_ops(subject.trace)
    if not found:
        return ""
    head = "".join(
        f"<th{css}>{name}</th>"
        for name, css in (
            ("op", ""),
            ("type", ""),
            ("phase", ""),
            ("shape", ""),
            *((name, ' class="num"') for name in ("times", "total", "share", "bytes/s", "FLOP/s")),
        )
    )
    rows = []
    for op in found:
        numbers = (
            op.count,
            human.time_ns(op.wall_ns),
            human.percent(op.share),
            human.size_bytes(op.bytes_per_s),
            human.count(op.flop_per_s),
        )
        shape = op.shapes[0] if len(op.shapes) == 1 else f"{op.shapes[0]} and {len(op.shapes) - 1} more"
        cells = "".join(f'<td class="num">{esc(value)}</td>' for value in numbers)
        rows.append(
            f'<tr><td class="name"><code>{esc(op.name)}</code></td><td>{esc(op.op_type)}</td>'
            f"<td>{esc(op.phase)}</td><td>{esc(shape)}</td>{cells}</tr>"
        )
    note = (
        "All measured runs together, prefill and decode apart. "
        "Bytes/s and FLOP/s: what the op needs by formula / its time."
    )
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return section("The ops that take longest", note, body, subject.kind("derived"))


def _counters(subject: Subject) -> str:
    body = counters_body(subject.trace)
    note = (
        "All threads, all measured runs. Measured: the counts. Derived: time; ipc, instructions per cycle; "
        "mpki, misses per 1000 instructions."
    )
    return section("What the counters say", note, body) if body else ""


def _memory(subject: Subject) -> str:
    if has_memory(subject.trace):
        note = "After the last run. Bytes: reserved; resident: in RAM. What no row explains is unaccounted."
        return section("Where the memory went", note, memory_body(subject.trace), "measured")
    body = activations_body(subject.trace)
    note = "What is needed of the compute buffer at each op. Profile with the level memory for the whole process."
    return section("Live activations", note, body, "derived") if body else ""


def _energy(subject: Subject) -> str:
    body = energy_body(subject.trace)
    note = (
        "Of the measured runs together. Net, which is derived: idle power taken off. "
        "What the sensor cannot resolve is refused."
    )
    return section("What it cost in energy", note, body, "measured") if body else ""


def _thermal(subject: Subject) -> str:
    body = thermal_body([subject.trace])
    note = (
        "Over one time axis; dashed: where the rate steps. Measured: power, temperature and clocks. Derived: the rate."
    )
    return section("Heat and clocks", note, body) if body else ""


def flatten(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields `a.b.c` and its value as text for every leaf of nested metadata, but for the warnings."""
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif name != "warnings":
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else charts.plain(value)


def _metadata(subject: Subject) -> str:
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, value in list(flatten(subject.trace.metadata))[:_MAX_METADATA_ROWS]:
        group, _, rest = name.partition(".")
        groups.setdefault(group if rest else "other", []).append((rest or name, value))
    header = subject.trace.header
    groups["trace"] = [
        ("format", f"{header.major}.{header.minor}"),
        ("id", header.trace_id),
        ("clock", header.clock_id),
    ]
    body = "".join(f"<h3>{esc(name)}</h3>{_definition_list(rows)}" for name, rows in groups.items())
    return f"<section><details><summary>What ran, on what</summary>{body}</details></section>"
