"""``melt report``: one HTML file that stands alone."""

from __future__ import annotations

import argparse
from typing import Any

from melt_core.cli._ceilings import cached_ceilings
from melt_core.cli._output import open_trace


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "report",
        help="an HTML report of one trace, or of several side by side",
        description="Writes one HTML file without script or outside references: it can be mailed and archived.",
    )
    parser.add_argument("traces", metavar="T.melt", nargs="+", help="traces; several are compared")
    parser.add_argument("-o", "--output", metavar="FILE.html", required=True, help="the file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the report."""
    from melt_core.report import report

    report([open_trace(path) for path in args.traces], args.output, ceilings=cached_ceilings())
    return 0
