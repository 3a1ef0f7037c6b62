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
    from melt_core.profiling.doctor import Finding

_NOT_THERE = ": No such file or directory"


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
    from melt_core.report.text import WIDTH

    for state, subject, detail in _folded(findings):
        line = f"{state:<8} {subject}: {detail}"
        width = terminal_width() or WIDTH
        print(textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False))
    return 0


def _folded(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Returns state, subject and detail of each finding; the sensors that are absent as one, by their reasons."""
    shown: list[tuple[str, str, str]] = []
    absent: dict[str, list[str]] = {}
    for finding in findings:
        kind, _, name = finding.subject.partition(" ")
        if kind == "sensor" and finding.state == "absent":
            absent.setdefault(finding.detail, []).append(name)
        else:
            shown.append((finding.state, finding.subject, finding.detail))
    not_there = {detail.removesuffix(_NOT_THERE): names for detail, names in absent.items() if _NOT_THERE in detail}
    reasons = [f"{', '.join(names)}: {detail}" for detail, names in absent.items() if _NOT_THERE not in detail]
    if not_there:  # the same words for most, so they are said once
        paths = (f"{path} ({', '.join(names)})" for path, names in not_there.items())
        reasons.insert(0, f"no such file or directory: {', '.join(paths)}")
    return [*shown, ("absent", "sensors", "; ".join(reasons))] if reasons else shown


def _print_ceilings(*, as_json: bool, remeasure: bool) -> int:
    from melt_core.profiling.ceilings import load_ceilings
    from melt_core.report.ceilings import format_ceilings

    loaded = load_ceilings()
    ceilings = None if remeasure else loaded.ceilings
    if ceilings is None:
        if not remeasure:
            print(f"melt: measuring: {loaded.reason}", file=sys.stderr)
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
