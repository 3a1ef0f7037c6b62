"""``melt ops``: where the time went, by op type, layer, module and so on."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import open_trace, print_json, terminal_width
from melt_core.errors import InvalidArgumentError, TraceError

if TYPE_CHECKING:
    from melt_core.trace import Table, Trace

_KEYS = ("op_type", "layer", "module", "phase", "name", "thread", "dtype", "weight", "backend")
_WHOLE = ("bytes", "flops", "live_bytes")
_TEXT_ROWS = 20


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "ops",
        help="where the time went, by op type, layer, module, ...",
        description="Groups the ops of the measured runs. wall: compute + wait on the main thread; compute and wait: "
        "over all threads; live: the most that is needed of activations at any of the ops.",
    )
    parser.add_argument("trace", metavar="T.melt", help="a trace")
    parser.add_argument(
        "--by",
        choices=_KEYS,
        default="op_type",
        metavar="KEY",
        help=f"what to group by: {', '.join(_KEYS)}; dtype is that of the result (default: op_type)",
    )
    phases = ("prefill", "decode", "tokenize")
    parser.add_argument("--phase", choices=phases, help="only this phase (default: all)")
    parser.add_argument(
        "--top", type=int, metavar="N", help=f"only the N longest (default: {_TEXT_ROWS}; all with --json)"
    )
    parser.add_argument("--warmup", action="store_true", help="count warm-up runs too")
    parser.add_argument(
        "--no-disturbed",
        action="store_true",
        help="leave out the ops within which a thread lost its processor (they are counted in any case)",
    )
    parser.add_argument("--counters", action="store_true", help="show what level counters counted instead of bytes")
    parser.add_argument("--json", action="store_true", help="print JSON, times in ns")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the groups, the longest first."""
    if args.top is not None and args.top < 1:
        raise InvalidArgumentError(f"--top {args.top}: ask for at least one row")
    trace = open_trace(args.trace)
    table = trace.key_averages(
        args.by, phase=args.phase, include_warmup=args.warmup, exclude_disturbed=args.no_disturbed
    )
    if not len(table) and _was_without_ops(trace):
        raise TraceError(f"{args.trace} holds no ops: record it with `melt profile --levels tokens,ops`")
    whole = table
    if args.counters:
        from melt_core.analysis.counters import with_counters

        table = with_counters(trace, table)
    if args.json:
        print_json([_whole(row) for row in (table if args.top is None else table.head(args.top)).to_dicts()])
        return 0
    from melt_core.report.activations import activation_lines
    from melt_core.report.text import WIDTH, format_table

    width = max(WIDTH, terminal_width() or 0)
    missing = {"key": f"(no {args.by})"}
    hint = "use a wider terminal or --json"
    print(format_table(table, max_rows=args.top or _TEXT_ROWS, width=width, missing=missing, hint=hint))
    for line in activation_lines(trace):
        print(line)
    counted = "op records" if args.by == "thread" else "op groups"  # each thread has its own record of a group
    for line in _notes(trace, whole, counted, left_out=args.no_disturbed, counters=args.counters):
        print(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row whose bytes and FLOPs are whole numbers, as they are; the table holds them so that NaN is one."""
    known = {name: row[name] for name in _WHOLE if row.get(name) is not None and math.isfinite(row[name])}
    return row | {name: round(value) for name, value in known.items()}


def _was_without_ops(trace: Trace) -> bool:
    """Tells whether the trace says that it was recorded without level ops; a damaged one may hold none all the same."""
    config = trace.metadata.get("config")
    levels = config.get("levels") if isinstance(config, dict) else None
    return isinstance(levels, list) and "ops" not in levels


def _notes(trace: Trace, table: Table, counted: str, *, left_out: bool, counters: bool) -> list[str]:
    """Returns how many of the table's groups were disturbed, and with `counters` those that are absent and why."""
    from melt_core.analysis.counters import missing_lines
    from melt_core.trace.counters import disturbed_reason

    if "disturbed" in table.columns:
        found, shown = int(table["disturbed"].sum()), int(table["count"].sum())
        of_all = shown + found if left_out else shown
        done = "left out" if left_out else "counted; --no-disturbed leaves them out"
        notes = [f"disturbed: {found} of {of_all} {counted}" + (f", {done}" if found else "")]
    else:
        notes = [f"disturbed: not known: {disturbed_reason(trace)}"]
    if counters:
        notes += [f"absent: {line}" for line in missing_lines(trace)]
    return notes
