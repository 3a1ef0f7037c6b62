"""``melt memory``: what the process held, category by category; or the largest context that runs."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from melt_core.cli._frontier import add_arguments, check_sizes, run_frontier
from melt_core.cli._output import open_trace, print_json
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.analysis.memory import MemoryAccount

#: Ops of a graph that are shown: a graph has some hundreds.
_TOP_OPS = 20


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "memory",
        help="where the memory went: buffers, heap, program, unaccounted",
        description="Shows a trace recorded with level memory. bytes: reserved when the last run had ended; resident: "
        "of those in RAM; peak: the most ever reserved (of the process: ever resident).",
    )
    parser.add_argument("trace", nargs="?", metavar="T.melt", help="a trace recorded with --levels tokens,memory")
    parser.add_argument(
        "--activations", action="store_true", help="instead: live bytes of activations at each op of the largest graphs"
    )
    parser.add_argument("--top", type=int, metavar="N", help=f"of --activations: the N largest (default: {_TOP_OPS})")
    parser.add_argument("--all", action="store_true", help="of --activations: each op, in the order of the graph")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: a list of rows, sizes in bytes; with --activations a list of graphs, each with its phase, "
        "peak, compute buffer and all its ops in order",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the truth table, or searches. A trace without level memory is a TraceError: exit code 1."""
    if (args.trace is None) == (args.frontier is None):
        raise InvalidArgumentError("name a trace, or --frontier MODEL")
    if not args.activations and (args.top is not None or args.all):
        raise InvalidArgumentError("--top and --all belong to --activations: give both")
    check_sizes(args)
    if args.frontier is not None:
        return run_frontier(args)
    if args.activations:
        return _run_activations(args)
    from melt_core.analysis.memory import memory_of
    from melt_core.report.activations import activation_lines

    trace = open_trace(args.trace)
    account = memory_of(trace)
    if args.json:
        print_json([row.to_json() for row in account.rows])
    else:
        print("\n".join(_lines(account) + activation_lines(trace)))
    return 0


def _run_activations(args: argparse.Namespace) -> int:
    from melt_core.analysis.liveness import live_graphs, why_unknown
    from melt_core.errors import TraceError
    from melt_core.report.activations import graph_lines

    if args.top is not None and (args.top < 1 or args.all):
        raise InvalidArgumentError(f"--top {args.top}: ask for at least one row, or for --all")
    trace = open_trace(args.trace)
    graphs = live_graphs(trace)
    if not graphs:
        reason = why_unknown(trace) or "no measured run has a graph"
        raise TraceError(f"{args.trace} has no live activations: {reason}")
    if args.json:
        print_json([graph.to_json(ops=True) for graph in graphs])
    else:
        most = None if args.all else args.top or _TOP_OPS
        print("\n\n".join("\n".join(graph_lines(graph, max_rows=most)) for graph in graphs))
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
