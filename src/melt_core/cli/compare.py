"""``melt compare``: two traces of the same tokens, such as of two runtimes, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from melt_core.cli._output import open_trace, print_json


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "compare",
        help="two traces of the same tokens side by side",
        description="Compares two traces of the same token ids, such as of two runtimes: record the first with "
        "`melt profile A --logits -o A.melt`, the second with `melt profile B --replay A.melt --logits -o B.melt`.",
    )
    parser.add_argument("first", metavar="A.melt", help="the trace that ratios refer to")
    parser.add_argument("second", metavar="B.melt", help="the other trace")
    parser.add_argument("--anyway", action="store_true", help="compare although tokens, threads or machine differ")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison. Returns the exit code."""
    from melt_core.analysis.compare import compare
    from melt_core.report.compare_text import format_comparison

    first, second = open_trace(args.first), open_trace(args.second)
    labels = (Path(args.first).stem, Path(args.second).stem)
    comparison = compare(first, second, labels=labels, despite_mismatch=args.anyway)
    if args.json:
        print_json(comparison.to_json())
    else:
        print(format_comparison(comparison))
    return 0
