"""``melt energy``: what runs, phases, tokens and ops cost in joules, and of a battery."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

from melt_core.cli._output import open_trace, print_json
from melt_core.errors import InvalidArgumentError, TraceError

_BY = ("op_type", "module", "phase")
_TEXT_ROWS = 20


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "energy",
        help="what runs, phases, tokens and ops cost in joules",
        description="Energy of the measured runs, gross and net of idle power, from the sensors in the trace. A figure "
        "that the sensor cannot resolve is refused, with the reason. Energy per op (--by) is modelled.",
    )
    parser.add_argument("trace", metavar="T.melt", help="a trace recorded with sensors")
    parser.add_argument("--by", choices=_BY, help="model the energy of ops too, grouped by this")
    parser.add_argument("--battery", metavar="C,V", help="cost of a prompt on this battery, as 4000mAh,3.85V")
    parser.add_argument("--figures", action="store_true", help="the figures of the MELT paper, as a table")
    parser.add_argument("--source", metavar="S", help="take this channel, as package-0/energy (default: the best)")
    parser.add_argument(
        "--error", type=float, default=5.0, metavar="%", help="95 %% interval that a figure may have (default: 5)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the bootstrap (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON: energy in J, power in W")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the energy. A trace without usable readings is a TraceError: exit code 1."""
    from melt_core.analysis.battery import Battery, battery_view, paper_figures
    from melt_core.analysis.energy import energy_of
    from melt_core.analysis.energy_ops import op_energy

    if not 0 < args.error <= 100:
        raise InvalidArgumentError(f"--error {args.error}: give a percentage above 0, at most 100")
    if args.seed < 0:
        raise InvalidArgumentError(f"--seed {args.seed}: give 0 or more")
    battery = None if args.battery is None else Battery.parse(args.battery)
    trace = open_trace(args.trace)
    try:
        report = energy_of(trace, source=args.source, error_ratio=args.error / 100)
    except TraceError as error:
        return _print_absent(error)
    ops = None if args.by is None else op_energy(trace, by=args.by, report=report, seed=args.seed)
    view = None if battery is None else battery_view(report, battery)
    figures = paper_figures(trace, report, battery) if args.figures else None
    if args.json:
        extra = {"ops": ops, "battery": view, "figures": figures}
        print_json(report.to_json() | {name: each.to_json() for name, each in extra.items() if each is not None})
        return 0
    from melt_core.report import energy_text as text

    parts = [text.format_energy(report)]
    parts += [] if ops is None else [text.format_op_energy(ops, max_rows=_TEXT_ROWS)]
    parts += [] if view is None else [text.format_battery(view)]
    parts += [] if figures is None else [text.format_figures(figures)]
    print("\n\n".join(parts))
    return 0


def _print_absent(error: TraceError) -> int:
    """Prints why there is no energy, a reason per line where several sensors are absent. Returns the exit code."""
    from melt_core.report.text import WIDTH

    lead, mark, text = str(error).partition("): ")
    reasons: dict[str, list[str]] = {}
    for part in text.split("; "):
        name, _, why = part.partition(": ")
        reasons.setdefault(why, []).append(name)
    if not mark or len(reasons) < 2:
        raise error
    lines = [f"melt: error: {lead}):", *(f"  {', '.join(names)}: {why}" for why, names in reasons.items())]
    for line in lines:
        filled = textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        print(filled, file=sys.stderr)
    return error.exit_code
