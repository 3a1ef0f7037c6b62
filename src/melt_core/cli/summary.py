"""``melt summary``: the key figures of a trace."""

from __future__ import annotations

import argparse
from typing import Any

from melt_core.cli._output import open_trace, print_json


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "summary",
        help="the key figures of a trace: TTFT, tokens/s, memory, overhead",
        description="Medians over the measured runs, with their IQR and number; and whether they can be trusted.",
    )
    parser.add_argument("trace", metavar="T.melt", help="a trace")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the summary."""
    summary = open_trace(args.trace).summary()
    if args.json:
        print_json(summary.to_json())
    else:
        print(summary)
    return 0
