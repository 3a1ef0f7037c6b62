"""``melt doctor``: what can be measured on this machine, what cannot, and why."""

from __future__ import annotations

import argparse
from typing import Any

from melt_core.cli._output import print_json


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("doctor", help="what can be measured on this machine, what cannot, and why")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the checks. Returns 0: a machine that cannot measure everything is no error."""
    from melt_core.profiling.doctor import examine

    findings = examine()
    if args.json:
        print_json([vars(finding) for finding in findings])
        return 0
    for finding in findings:
        print(f"{finding.state:<8} {finding.subject}: {finding.detail}")
    return 0
