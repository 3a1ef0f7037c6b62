"""``melt memory``: what a model needs."""

from __future__ import annotations

import argparse
from typing import Any

from melt_core.cli._frontier import add_arguments, run_frontier
from melt_core.errors import InvalidArgumentError


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser("memory", help="the largest context that runs under a memory limit")
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what was asked for. Returns the exit code."""
    if args.frontier is None:
        raise InvalidArgumentError("name what to do: --frontier MODEL")
    return run_frontier(args)
