"""``melt memory``: what the process held, category by category; or the largest context that runs."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from melt_core.cli._frontier import add_arguments, run_frontier
from melt_core.cli._output import open_trace, print_json
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.analysis.memory import MemoryAccount


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "memory",
        help="where the memory went: buffers, heap, program, unaccounted",
        description="Shows a trace recorded with level memory. bytes: reserved when the last run had ended; resident: "
        "of those in RAM; peak: the most ever reserved (of the process: ever resident).",
    )
    parser.add_argument("trace", nargs="?", metavar="T.melt", help="a trace recorded with --levels tokens,memory")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of rows, sizes in bytes")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the truth table, or searches. A trace without level memory is a TraceError: exit code 1."""
    if (args.trace is None) == (args.frontier is None):
        raise InvalidArgumentError("name a trace, or --frontier MODEL")
    if args.frontier is not None:
        return run_frontier(args)
    from melt_core.analysis.memory import memory_of

    account = memory_of(open_trace(args.trace))
    if args.json:
        print_json([row.to_json() for row in account.rows])
    else:
        print("\n".join(_lines(account)))
    return 0


def _lines(account: MemoryAccount) -> list[str]:
    from melt_core.report import human
    from melt_core.report.text import WIDTH

    lines = [f"{'category':<12}{'bytes':>9}{'resident':>10}{'peak':>9}  source"]
    for row in account.rows:
        sizes = [human.size_bytes(size) for size in (row.bytes, row.resident_bytes, row.peak_bytes)]
        lines.append(f"{row.category:<12}{sizes[0]:>9}{sizes[1]:>10}{sizes[2]:>9}  {row.source}"[:WIDTH])
    lines.append("")
    lines.append(f"unaccounted: {human.percent(account.unaccounted_ratio)} of the process's resident memory")
    peaks = ", ".join(f"{name} {human.size_bytes(peak)}" for name, peak in account.phase_peak_rss_bytes.items())
    if peaks:
        lines += textwrap.wrap(f"highest RSS sampled: {peaks}", WIDTH)
    for name, reason in account.missing.items():
        lines += textwrap.wrap(f"missing: {name}: {reason}", WIDTH, subsequent_indent="  ")
    return lines
