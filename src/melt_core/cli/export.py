"""``melt export``: a trace for another tool."""

from __future__ import annotations

import argparse
from pathlib import Path
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
    parser.add_argument(
        "--run", dest="run_number", type=int, metavar="N", help="only run N, for a smaller file (default: all)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file, and says how large it is."""
    trace = open_trace(args.trace)
    trace.export(args.output, format=args.format, run=args.run_number)
    from melt_core.report import human
    from melt_core.trace.storage import is_stream

    if is_stream(args.output):  # nothing may come behind it
        return 0
    smaller = "   --run N writes one run only" if args.run_number is None and len(trace.runs) > 1 else ""
    print(f"{args.output}: {human.size_bytes(Path(args.output).stat().st_size)}{smaller}")
    return 0
