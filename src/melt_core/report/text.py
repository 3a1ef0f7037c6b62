"""Tables and summaries as text of at most 80 columns, for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from melt_core.report import human

if TYPE_CHECKING:
    from melt_core.analysis.stats import Stat
    from melt_core.analysis.summary import Summary
    from melt_core.trace.table import Table

WIDTH = 80
_HEAD_ROWS = 20
_MIN_TEXT_WIDTH = 16

#: Suffix of a column's name -> how its values are shown; the suffix is then left out of the heading.
_BY_SUFFIX: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("_ns", human.time_ns),
    ("_ms", human.time_ms),
    ("_bytes", human.size_bytes),
    ("_ratio", human.percent),
)
_BY_NAME: dict[str, Callable[[Any], str]] = {
    "share": human.percent,
    "bytes": human.size_bytes,
    "bytes_read": human.size_bytes,
    "bytes_written": human.size_bytes,
    "flops": human.count,
}


def format_table(
    table: Table,
    *,
    max_rows: int | None = _HEAD_ROWS,
    width: int = WIDTH,
    missing: Mapping[str, str] | None = None,
    hint: str = "",
) -> str:
    """Returns the first rows, aligned, units made readable. Columns that do not fit are named below.

    Args:
        table: The table.
        max_rows: How many rows to show; None for all.
        width: Columns of the terminal.
        missing: Column -> what stands for a missing value there, "-" elsewhere.
        hint: How to see the columns that do not fit.
    """
    missing = missing or {}
    shown = table if max_rows is None else table.head(max_rows)
    n_shown = len(shown)
    headings, cells, is_text = [], [], []
    for name in table.columns:
        heading, formatter = _presentation(name)
        absent = missing.get(name, human.MISSING)
        column = [absent if value is None else formatter(value) for value in _values(shown, name)]
        headings.append(heading)
        cells.append(column)
        is_text.append(_is_text(shown, name))
    widths = [max([len(heading), *map(len, column)]) for heading, column in zip(headings, cells, strict=True)]
    widths, n_fitting = _fit(widths, is_text, width)
    lines = []
    for row in [headings, *([column[number] for column in cells] for number in range(n_shown))]:
        parts = [_cell(row[at], widths[at], is_text[at]) for at in range(n_fitting)]
        lines.append("  ".join(parts).rstrip())
    lines += _footer(table, n_shown)
    return "\n".join(lines + _left_out(headings[n_fitting:], width, hint))


def format_rows(rows: Sequence[Sequence[str]], *, whole: Collection[int] = (), width: int = WIDTH) -> list[str]:
    """Returns rows of text as aligned lines. Columns that do not fit are named below.

    Args:
        rows: The headings, then the rows.
        whole: Columns that are not shortened.
        width: Columns of the terminal.
    """
    columns = list(zip(*rows, strict=True))
    may_shorten = [at not in whole for at in range(len(columns))]
    widths, n_fitting = _fit([max(map(len, column)) for column in columns], may_shorten, width)
    lines = ["  ".join(_cell(row[at], widths[at], True) for at in range(n_fitting)).rstrip() for row in rows]
    return lines + _left_out(rows[0][n_fitting:], width, "use a wider terminal or --json")


def _presentation(name: str) -> tuple[str, Callable[[Any], str]]:
    if name in _BY_NAME:
        return name, _BY_NAME[name]
    for suffix, formatter in _BY_SUFFIX:
        if name.endswith(suffix):
            return name.removesuffix(suffix), formatter
    return name, human.plain


def _values(table: Table, name: str) -> list[Any]:
    values = table[name]
    missing = table.missing.get(name)
    return [None if missing is not None and value == missing else _scalar(value) for value in values.tolist()]


def _scalar(value: Any) -> Any:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_text(table: Table, name: str) -> bool:
    return table[name].dtype.kind in "OSUb" if len(table) else False


def _fit(widths: list[int], is_text: list[bool], width: int) -> tuple[list[int], int]:
    """Shortens text columns, widest first, then leaves out columns from the right, until the rest fits."""
    widths = list(widths)
    for n_fitting in range(len(widths), 0, -1):
        kept = widths[:n_fitting]
        excess = sum(kept) + 2 * (n_fitting - 1) - width
        while excess > 0:
            texts = [at for at in range(n_fitting) if is_text[at] and kept[at] > _MIN_TEXT_WIDTH]
            if not texts:
                break
            widest = max(texts, key=lambda at: kept[at])
            kept[widest] -= 1
            excess -= 1
        if excess <= 0:
            return kept, n_fitting
    return [width], 1


def _cell(text: str, width: int, is_text: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "~"
    return text.ljust(width) if is_text else text.rjust(width)


def _left_out(headings: Sequence[str], width: int, hint: str) -> list[str]:
    text = f"no room for: {', '.join(headings)}{'; ' if hint else ''}{hint}"
    return textwrap.wrap(text, width, subsequent_indent="  ") if headings else []


def _footer(table: Table, n_shown: int) -> list[str]:
    lines = []
    if len(table) > n_shown:
        lines.append(f"... {len(table) - n_shown} more of {len(table)} rows")
    if not len(table):
        lines.append("(no rows)")
    return lines


def format_summary(summary: Summary) -> str:
    """Returns the key figures as text, the overhead line always among them, warnings last."""
    identity = [
        ("model", _joined(summary.model, summary.quantization)),
        ("runtime", _joined(summary.runtime, summary.runtime_version)),
        ("device", _joined(summary.device, _threads(summary.n_threads))),
        ("runs", _runs_text(summary)),
    ]
    figures = [
        ("load", _stat(summary.load_ms, human.time_ms)),
        ("TTFT", _stat(summary.ttft_ms, human.time_ms)),
        ("prefill", _stat(summary.prefill_tok_s, human.rate)),
        ("decode", _stat(summary.decode_tok_s, human.rate)),
        ("TPOT", _stat(summary.tpot_ms, human.time_ms)),
        ("ITL p50, p95, p99", _itl_text(summary)),
        ("peak memory", human.size_bytes(summary.peak_rss_bytes)),
    ]
    lines = [_line(label, value) for label, value in identity if value != human.MISSING]
    lines += ["", f"{'':20}{'median':<16}{'IQR':<12}n"]
    lines += [f"{label:<20}{value}" for label, value in figures]
    lines += ["", *[_line(label, value) for label, value in _trust_lines(summary)]]
    lines += _missing_lines(summary) + _warning_lines(summary)
    return "\n".join(lines)


def _line(label: str, value: str) -> str:
    wrapped = textwrap.wrap(value, WIDTH - 20, break_long_words=True) or [""]
    return "\n".join([f"{label:<20}{wrapped[0]}", *(" " * 20 + rest for rest in wrapped[1:])])


def _joined(*parts: str | None) -> str:
    known = [human.plain(part) for part in parts if part]
    return ", ".join(known) if known else human.MISSING


def _threads(n_threads: int | None) -> str | None:
    if n_threads is None:
        return None
    return "1 thread" if n_threads == 1 else f"{n_threads} threads"


def _runs_text(summary: Summary) -> str:
    text = f"{summary.n_runs} measured, {summary.n_warmup} warm-up"
    if summary.n_prompt is None:
        return text
    return f"{text}; {summary.n_prompt} prompt and {summary.n_output} output tokens"


def _stat(stat: Stat | None, shown: Callable[[float | None], str]) -> str:
    if stat is None:
        return human.MISSING
    spread = shown(stat.iqr) if stat.n > 1 else human.MISSING
    return f"{shown(stat.median):<16}{spread:<12}{stat.n}"


def _itl_text(summary: Summary) -> str:
    stats = (summary.itl_p50_ms, summary.itl_p95_ms, summary.itl_p99_ms)
    return ", ".join(human.time_ms(None if stat is None else stat.median) for stat in stats)


def _trust_lines(summary: Summary) -> list[tuple[str, str]]:
    ops, kept = summary.ops, summary.conservation
    lines = [("ops", f"{ops.groups} groups in {ops.graphs} graphs, {ops.records} records, {ops.dropped} dropped")]
    if kept.median is None or kept.min is None:
        lines.append(("conservation", f"unknown: {kept.reason}"))
    else:
        text = f"{kept.median:.2%} of graph time is in ops (least {kept.min:.2%}; {kept.n_graphs} graphs)"
        lines.append(("conservation", text))
    gap = summary.graph_gap
    gaps = f"prefill {human.percent(gap.prefill_ratio)}, decode {human.percent(gap.decode_ratio)} of phase time"
    lines.append(("outside graphs", gaps))
    cost = summary.overhead
    lines += _counter_lines(summary)
    lines.append(("overhead, decode", human.overhead(cost.decode_ratio, cost.decode_ci95)))
    lines.append(("overhead, prefill", human.overhead(cost.prefill_ratio, cost.prefill_ci95)))
    return lines


def _counter_lines(summary: Summary) -> list[tuple[str, str]]:
    lines, disturbed, counters = [], summary.disturbed, summary.counters
    if disturbed is not None:
        lines.append(("disturbed", human.disturbed(disturbed.groups, disturbed.of_groups, disturbed.reason)))
    if counters is None:
        return lines
    for phase, values in counters.phases.items():
        known = [f"{name} {human.count(value)}" for name, value in values.items() if value is not None]
        lines.append((f"counters, {phase}", ", ".join(known) or "none was read"))
    names: dict[str, list[str]] = {}
    for name, reason in counters.missing.items():
        names.setdefault(reason, []).append(name)
    lines += [("not counted", f"{', '.join(each)}: {reason}") for reason, each in names.items()]
    return lines


def _missing_lines(summary: Summary) -> list[str]:
    return [_line("missing", f"{human.plain(name)}: {human.plain(why)}") for name, why in summary.missing.items()]


def _warning_lines(summary: Summary) -> list[str]:
    lines = []
    for warning in summary.warnings:
        lines += textwrap.wrap(
            f"warning: {human.plain(warning)}", WIDTH, subsequent_indent="         ", break_long_words=True
        )
    return ["", *lines] if lines else []
