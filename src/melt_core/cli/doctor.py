"""``melt doctor``: what can be measured on this machine, what cannot, and why."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import print_json, terminal_width
from melt_core.cli._progress import Progress
from melt_core.errors import InvalidArgumentError, StorageError

if TYPE_CHECKING:
    from melt_core.analysis.ceilings import Ceilings


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("doctor", help="what can be measured on this machine, what cannot, and why")
    parser.add_argument(
        "--ceilings",
        action="store_true",
        help="read bandwidth and arithmetic rates of this machine; measured once (some seconds), then kept",
    )
    parser.add_argument("--remeasure", action="store_true", help="with --ceilings: measure again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the checks. Returns 0: a machine that cannot measure everything is no error."""
    if args.ceilings:
        return _print_ceilings(as_json=args.json, remeasure=args.remeasure)
    if args.remeasure:
        raise InvalidArgumentError("--remeasure belongs to --ceilings: give both")
    from melt_core.profiling.doctor import examine

    findings = examine()
    if args.json:
        print_json([vars(finding) for finding in findings])
        return 0
    for finding in findings:
        line = f"{finding.state:<8} {finding.subject}: {finding.detail}"
        width = terminal_width() or len(line)  # elsewhere a finding stays one line
        print(textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False))
    return 0


def _print_ceilings(*, as_json: bool, remeasure: bool) -> int:
    from melt_core.profiling.ceilings import load_ceilings
    from melt_core.report.ceilings import format_ceilings

    loaded = load_ceilings()
    ceilings = None if remeasure else loaded.ceilings
    if ceilings is None:
        if not remeasure:
            print(f"melt: measuring ceilings: {loaded.reason}", file=sys.stderr)
        ceilings = _measured()
    if as_json:
        print_json(asdict(ceilings))
    else:
        print(format_ceilings(ceilings))
    return 0


def _measured() -> Ceilings:
    from melt_core.profiling.ceilings import measure_ceilings, save_ceilings

    with Progress(sys.stderr) as progress:
        ceilings = measure_ceilings(on_progress=progress.update)
    try:
        save_ceilings(ceilings)
    except StorageError as error:  # they are printed all the same
        print(f"melt: warning: not kept: {error}", file=sys.stderr)
    return ceilings
