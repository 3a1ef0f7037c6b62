"""``melt sustain``: prompts back to back for minutes, and what the device can keep up."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import print_json
from melt_core.cli._progress import Progress
from melt_core.cli._signals import described, exit_code
from melt_core.errors import InvalidArgumentError, MeltError, TraceError

if TYPE_CHECKING:
    from melt_core.profiling.sustain import SustainRequest
    from melt_core.trace import Trace

_DEFAULT_PROMPT_TOKENS = 128


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "sustain",
        help="prompts back to back for minutes: what rate the device keeps up",
        description="Runs prompts back to back, each token tagged by temperature, clocks and throttling, and finds "
        "when the rate steps. Writes a folder: a trace for each sitting, and a report. An interrupted run is resumed.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("model", nargs="?", metavar="MODEL", help="a GGUF file, or a name from `melt models list`")
    what.add_argument("--resume", metavar="FOLDER", help="go on with an interrupted run")
    what.add_argument("--show", metavar="FOLDER", help="show a run again")
    parser.add_argument("--minutes", type=float, metavar="M", help="how long, pauses not counted")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where it goes")
    parser.add_argument("--prompt", metavar="TEXT", help="evaluate this text (default: 128 random tokens)")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="evaluate N random tokens")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="output tokens (default: 128)")
    parser.add_argument("--threads", type=int, metavar="N", help="computing threads (default: one per usable CPU)")
    parser.add_argument("--ctx", type=int, default=2048, metavar="N", help="context length (default: 2048)")
    parser.add_argument("--runtime", default="llama.cpp", help="inference runtime (default: llama.cpp)")
    parser.add_argument("--stop-temp", metavar="[SITE=]C", help="stop when this hot, as 70 or skin=43 (degC)")
    parser.add_argument("--stop-battery", type=float, metavar="%", help="stop when the battery is down to this")
    parser.add_argument("--sensors", default="auto", metavar="LIST", help="sensors to read (default: all there are)")
    parser.add_argument("--sensor-hz", type=float, default=10.0, metavar="N", help="readings per second (default: 10)")
    parser.add_argument(
        "--idle-s", type=float, default=5.0, metavar="S", help="seconds of idling before and after (default: 5)"
    )
    parser.add_argument(
        "--device", default="local", metavar="URI", help="run there: adb:SERIAL, ssh:[user@]HOST[:PORT], ios:UDID"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs, resumes or shows; after Ctrl-C what was measured is shown all the same. Returns the exit code."""
    from melt_core.profiling.sustain import open_segments, resume, sustain

    if "" in (args.show, args.resume):
        raise InvalidArgumentError("the folder's name is empty: name the folder of a sustained run")
    folder = Path(args.show or args.resume or args.output or "")
    interrupted: KeyboardInterrupt | None = None
    try:
        with Progress(sys.stderr) as progress:
            if args.resume is not None:
                resume(folder, on_event=lambda event: _show(progress, event))
            elif args.show is None:
                request = _request(args)
                sustain(request, folder, on_event=lambda event: _show(progress, event))
    except KeyboardInterrupt as interrupt:
        interrupted = interrupt
    traces = open_segments(folder)
    if not traces:
        raise MeltError(f"{folder} holds no trace: nothing was measured")
    _print(args, folder, traces)
    if interrupted is not None:
        print(f"melt: {described(interrupted)}; go on with: melt sustain --resume {folder}", file=sys.stderr)
        return exit_code(interrupted)
    return 0


def _request(args: argparse.Namespace) -> SustainRequest:
    from melt_core.models import resolve
    from melt_core.profiling import ProfileRequest
    from melt_core.profiling.sustain import SustainRequest

    if args.minutes is None or not args.output:
        raise InvalidArgumentError("say how long and where to: --minutes M -o FOLDER")
    site, _, limit = (args.stop_temp or "").rpartition("=")
    try:
        temperature = float(limit) if limit else None
    except ValueError:
        raise InvalidArgumentError(f"--stop-temp {args.stop_temp}: give degC, or SITE=degC") from None
    prompt_tokens = args.prompt_tokens
    if args.prompt is None and prompt_tokens is None:
        prompt_tokens = _DEFAULT_PROMPT_TOKENS
    profile = ProfileRequest(
        model=args.model if args.runtime == "synthetic" else str(resolve(args.model)),
        output="",
        runtime=args.runtime,
        prompt=args.prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=args.max_tokens,
        ignore_eos=True,
        levels=("tokens",),
        n_ctx=args.ctx,
        n_threads=args.threads,
        sensors=tuple(name.strip() for name in args.sensors.split(",") if name.strip()),
        sensor_hz=args.sensor_hz,
        idle_s=args.idle_s,
    )
    return SustainRequest(
        profile=profile,
        minutes=args.minutes,
        stop_temperature_c=temperature,
        stop_site=site or None,
        stop_charge_ratio=None if args.stop_battery is None else args.stop_battery / 100,
        device=args.device,
    )


def _show(progress: Progress, event: dict[str, Any]) -> None:
    if event["event"] == "load":
        progress.update("loading the model", event["done"])
    elif event["event"] == "prompt":
        progress.update(f"{event['seconds'] / 60:.1f} of {event['of'] / 60:.1f} min", event["seconds"] / event["of"])


def _print(args: argparse.Namespace, folder: Path, traces: list[Trace]) -> None:
    from melt_core.analysis.sustained import sustained
    from melt_core.profiling.sustain import stopped_by
    from melt_core.report.energy_text import format_sustained
    from melt_core.report.sustained_html import write_sustained

    ended = stopped_by(folder)
    try:
        found = sustained(traces, stopped_by=ended)
    except TraceError as error:  # it ended so soon that there is nothing to work out; the traces are there
        if args.json:
            print_json({"stopped_by": ended, "reason": str(error)})
        else:
            print(f"ended by {ended or 'interruption'}; no figures: {error}\ntraces: {folder}")
        return
    page = folder / "report.html"
    write_sustained(traces, found, page)
    if args.json:
        print_json(found.to_json())
    else:
        print(format_sustained(found))
        print(f"traces: {folder}   report: {page}")
