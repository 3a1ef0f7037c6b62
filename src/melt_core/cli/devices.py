"""``melt devices``: what is attached, what was started there and not brought back, and tidying up."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import print_json, terminal_width
from melt_core.cli._progress import Progress
from melt_core.errors import InvalidArgumentError, MeltError

if TYPE_CHECKING:
    from melt_core.devices.discovery import Listed
    from melt_core.devices.journal import Entry


#: The state and what tells devices apart come first: where there is no room, columns go from the right.
_HEADINGS = ("device", "state", "model", "OS", "cores", "memory", "battery", "temp.", "SoC")


def add_parser(subparsers: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = subparsers.add_parser("devices", help="list devices, fetch their runs, clean up")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_list, uris=[])
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    listing = actions.add_parser("list", help="the devices there are (the same as without an action)")
    listing.add_argument("uris", nargs="*", metavar="URI", help="only these, such as ssh:jetson-1")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    listing.set_defaults(run=run_list)

    runs = actions.add_parser("runs", help="runs that were started on devices and not brought back")
    runs.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    runs.set_defaults(run=run_runs)

    resume = actions.add_parser("resume", help="bring back runs: all of them, or those named")
    resume.add_argument("runs", nargs="*", metavar="RUN", help="names from `melt devices runs`")
    resume.set_defaults(run=run_resume)

    clean = actions.add_parser("clean", help="remove agents, models and runs from a device")
    clean.add_argument("uris", nargs="+", metavar="URI", help="such as adb:SERIAL")
    clean.add_argument("--force", action="store_true", help="also runs that were not brought back")
    clean.set_defaults(run=run_clean)


def run_list(args: argparse.Namespace) -> int:
    """Prints the devices."""
    from melt_core.devices.discovery import discover

    found = discover(uris=args.uris)
    if args.json:
        print_json({"devices": [one.to_json() for one in found.devices], "not_searched": list(found.not_searched)})
        return 0
    from melt_core.report.text import WIDTH, format_rows

    width = max(WIDTH, terminal_width() or 0)
    # A URI is what other commands take, so it is never shortened.
    print("\n".join(format_rows([_HEADINGS, *map(_row, found.devices)], whole=(0,), width=width)))
    for note in found.not_searched:
        print(_filled(f"not searched: {note}", width))
    for one in found.devices:
        if one.why:
            print(_filled(f"melt: {one.uri}: {one.why}", width), file=sys.stderr)
        if one.open_runs:
            print(f"melt: {one.uri}: {one.open_runs} runs to bring back: melt devices resume", file=sys.stderr)
    return 0


def _filled(line: str, width: int) -> str:
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _row(one: Listed) -> tuple[str, ...]:
    from melt_core.report import human

    def shown(value: float | None, text: str) -> str:
        return "-" if value is None else text.format(value)

    return (
        one.uri,
        one.state,
        one.model or "-",
        one.os or "-",
        shown(one.n_cpus, "{}"),
        human.size_bytes(one.mem_total_bytes),
        shown(one.battery_ratio, "{:.0%}"),
        shown(one.temperature_c, "{:.1f} degC"),
        one.soc or "-",
    )


def run_runs(args: argparse.Namespace) -> int:
    """Prints the runs that are open."""
    from melt_core.devices.journal import Journal

    entries = Journal().entries()
    if args.json:
        names = ("run", "uri", "model", "output", "started_wall_s")
        print_json([{name: getattr(entry, name) for name in names} for entry in entries])
        return 0
    if not entries:
        print("no open runs")
    for entry in entries:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.started_wall_s))
        print(f"{entry.run}  {entry.uri}  started {started}  {entry.model} -> {entry.output}")
    return 0


def run_resume(args: argparse.Namespace) -> int:
    """Brings runs back. Returns 1 if one of them failed."""
    from melt_core.devices.journal import Journal

    entries = Journal().entries()
    unknown = set(args.runs) - {entry.run for entry in entries}
    if unknown:
        raise InvalidArgumentError(f"no run {sorted(unknown)[0]!r} is open: `melt devices runs` lists them")
    failed = False
    for entry in entries:
        if not args.runs or entry.run in args.runs:
            failed |= not _resumed(entry)
    return 1 if failed else 0


def _resumed(entry: Entry) -> bool:
    from melt_core.devices import connect

    # Without -o the trace was to go to a folder that went with the process that asked for it.
    output = entry.output if Path(entry.output).parent.is_dir() else f"{entry.run}.melt"
    try:
        with connect(entry.uri) as device, Progress(sys.stderr) as progress:
            outcome = device.resume(entry.run, output=output, on_event=lambda event: show_event(progress, event))
    except MeltError as error:
        print(f"melt: error: {entry.run}: {' '.join(str(error).split())}", file=sys.stderr)
        return False
    print(f"{entry.run}  {outcome.state}  {output}")
    return True


def run_clean(args: argparse.Namespace) -> int:
    """Empties work directories."""
    from melt_core.devices import connect
    from melt_core.devices.discovery import forget

    for uri in args.uris:
        with connect(uri) as device:
            removed = device.clean(force=args.force)
        forget(uri)
        print(f"{uri}: removed {removed / 1e6:.1f} MB")
    return 0


def show_event(progress: Progress, event: dict[str, Any]) -> None:
    """Draws what a run on a device is at."""
    kind = event["event"]
    if kind == "push":
        progress.update("sending the model", event["done"])
    elif kind == "gate":
        progress.update(f"waiting: {event['gate']}", 0.0)
    elif kind == "resume":
        print(f"melt: taking up run {event['run']}, which was started before", file=sys.stderr)
    elif kind == "load":
        progress.update("loading the model there", event["done"])
    elif kind == "repetition":
        done, total = event["done"], event["total"]
        progress.update(f"repetition {min(done + 1, total)}/{total}", done / total)
