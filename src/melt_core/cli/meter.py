"""``melt meter``: an external power meter beside a profile, and its recording joined with the trace."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import check_writable, open_trace
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.meters import ClockFit, Recording
    from melt_core.trace import Trace

_BY = ("load", "wall")


def add_parser(subparsers: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = subparsers.add_parser("meter", help="record an external power meter, and join its readings with a trace")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_record(actions)
    _add_join(actions)


def _add_record(actions: Any) -> None:
    record = actions.add_parser(
        "record",
        help="read a Monsoon HV or an SCPI instrument into a CSV file",
        description="Reads a meter until the seconds are over, or until Ctrl-C. Start it before "
        "`melt profile --marker`, and end it after that.",
    )
    record.add_argument(
        "meter", metavar="METER", help="monsoon, or an instrument's VISA address, as TCPIP::10.0.0.7::5025::SOCKET"
    )
    record.add_argument("-o", "--output", required=True, metavar="R.csv", help="the file to write")
    record.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="how long to read (default: until Ctrl-C)"
    )
    record.add_argument("--rate", type=float, default=20.0, metavar="HZ", help="SCPI: queries a second (default: 20)")
    record.add_argument(
        "--query", action="append", default=[], metavar="K=Q", help="SCPI: what to ask for, as power=MEAS:POW?"
    )
    record.add_argument("--serial", metavar="N", help="Monsoon: which, where there are several")
    record.add_argument("--supply", type=float, metavar="V", help="Monsoon: set its main output to this voltage first")
    record.set_defaults(run=run_record)


def _add_join(actions: Any) -> None:
    join = actions.add_parser(
        "join",
        help="put a meter's recording (CSV) on the clock of a trace",
        description="Writes a trace with the meter's readings in it; `melt energy` takes them before all others. The "
        "clocks are aligned by the load: the steps of power where runs and the pulses of `melt profile --marker` begin "
        "and end.",
    )
    join.add_argument("trace", metavar="T.melt", help="of the runs that the meter watched")
    join.add_argument("recording", metavar="R.csv", help="of any meter")
    join.add_argument("-o", "--output", required=True, metavar="J.melt", help="the trace to write")
    join.add_argument("--by", choices=_BY, default=_BY[0], help="what aligns the clocks (default: load)")
    join.add_argument("--near", type=float, metavar="S", help="load: trace time at the recording's begin, roughly")
    join.add_argument("--within", type=float, default=2.0, metavar="S", help="how far from there to look (default: 2)")
    join.add_argument("--site", default="meter", metavar="NAME", help="what the readings are of (default: meter)")
    join.add_argument("--voltage", type=float, metavar="V", help="of a supply whose current alone was read")
    column = {"action": "append", "default": [], "metavar": "K=NAME"}
    join.add_argument("--column", **column, help="column of time, power, current, voltage or energy")
    join.add_argument("--unit", **column | {"metavar": "K=UNIT"}, help="unit of a column, as power=mW")
    join.add_argument("--separator", metavar="C", help="between cells (default: what the file shows)")
    join.add_argument(
        "--decimal", choices=(".", ","), metavar="C", help="decimal sign, . or , (default: what the file shows)"
    )
    join.add_argument("--timezone", metavar="ZONE", help="of local times, as Europe/Berlin")
    join.add_argument("--date-order", choices=("ymd", "dmy", "mdy"), help="of dates like 03/04/2026")
    join.set_defaults(run=run_join)


def run_record(args: argparse.Namespace) -> int:
    """Records until the time is over or Ctrl-C, and writes what there is."""
    from melt_core.meters import write_csv

    check_writable(args.output)
    if not args.seconds > 0:
        raise InvalidArgumentError(f"--seconds {args.seconds}: give more than 0")
    if not 0 < args.rate <= 10_000:
        raise InvalidArgumentError(f"--rate {args.rate}: give more than 0 and at most 10000 queries a second")
    with _until_interrupt() as stop:
        recording = _recorded(args, stop)
    write_csv(recording, args.output)
    _warn(recording)
    kinds = ", ".join(recording.series)
    print(
        f"{len(recording.time_ns)} readings of {kinds} in {recording.duration_s:.1f} s, {recording.rate_hz:.4g} Hz\n"
        f"recording: {args.output}   next: melt meter join T.melt {args.output} -o J.melt"
    )
    return 0


def _recorded(args: argparse.Namespace, stop: Callable[[], bool]) -> Recording:
    from melt_core.meters import Monsoon, ScpiMeter
    from melt_core.meters.scpi import DEFAULT_QUERIES

    if args.meter == "monsoon":
        with Monsoon.open(serial=args.serial) as monsoon:
            if args.supply is not None:
                monsoon.set_voltage(args.supply)
            return monsoon.record(seconds=args.seconds, stop=stop)
    queries = _pairs("--query", args.query) or DEFAULT_QUERIES
    with ScpiMeter.open(args.meter, queries=queries) as meter:
        return meter.record(seconds=args.seconds, rate_hz=args.rate, stop=stop)


@contextmanager
def _until_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives what says whether Ctrl-C was pressed: what was read until then is kept."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def run_join(args: argparse.Namespace) -> int:
    """Aligns and joins. Returns the exit code."""
    from melt_core.meters import merge, read_csv

    trace = open_trace(args.trace)
    recording = read_csv(
        args.recording,
        columns=_pairs("--column", args.column),
        units=_pairs("--unit", args.unit),
        separator=args.separator,
        decimal=args.decimal,
        timezone=args.timezone,
        date_order=args.date_order,
    )
    if args.voltage is not None:
        recording = recording.with_voltage(args.voltage)
    fit = _aligned(trace, recording, args)
    merge(trace, recording, fit, args.output, site=args.site)
    _warn(recording)
    drift = "drift not known" if fit.method == "wall clock" else f"drift {fit.drift_ppm:+.1f} ppm"
    points = f", {fit.n_points} steps" if fit.n_points else ""
    print(
        f"{len(recording.time_ns)} readings at {recording.rate_hz:.4g} Hz, aligned by {fit.method}{points}: "
        f"within {fit.error_ns / 1e6:.2g} ms, {drift}\n"
        f"trace: {args.output}   next: melt energy {args.output}"
    )
    return 0


def _aligned(trace: Trace, recording: Recording, args: argparse.Namespace) -> ClockFit:
    from melt_core.meters import align_by_load, align_by_wall_clock

    if args.by == "wall":
        return align_by_wall_clock(trace, recording)
    if args.near is None:
        return align_by_load(trace, recording)
    return align_by_load(trace, recording, near_ns=args.near * 1e9, within_ns=args.within * 1e9)


def _warn(recording: Recording) -> None:
    for text in recording.warnings:
        print(f"melt: warning: {text}", file=sys.stderr)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Returns KEY=VALUE options as a mapping. Raises InvalidArgumentError for one without the sign."""
    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise InvalidArgumentError(f"{option} {text!r}: give it as NAME=VALUE")
        found[key.strip()] = value.strip()
    return found
