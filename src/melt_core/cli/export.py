"""``melt export``: a trace for another tool."""

from __future__ import annotations

import argparse
from typing import Any

from melt_core.cli._output import open_trace

_FORMATS = ("chrome", "speedscope", "csv", "parquet")


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "export",
        help="a trace for another tool: Perfetto, speedscope, a spreadsheet, pandas",
        description="chrome: open it in ui.perfetto.dev; speedscope: in speedscope.app; csv, parquet: the ops table.",
    )
    parser.add_argument("trace", metavar="T.melt", help="a trace")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="what to write")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--run", dest="run_number", type=int, metavar="N", help="only run N (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file."""
    open_trace(args.trace).export(args.output, format=args.format, run=args.run_number)
    return 0
