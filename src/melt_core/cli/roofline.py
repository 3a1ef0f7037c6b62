"""``melt roofline``: how near each op came to what this machine can do, and what binds it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from melt_core.cli._ceilings import required_ceilings
from melt_core.cli._output import open_trace, print_json
from melt_core.errors import InvalidArgumentError, MeltError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt_core.analysis.mbu import Mbu
    from melt_core.analysis.roofline import Ceilings, Roofline
    from melt_core.trace import Trace

_BY = ("op_type", "name", "module")
_PHASES = ("prefill", "decode")
_TEXT_ROWS = 20


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "roofline",
        help="how near each op came to what this machine can do, and what binds it",
        description="Achieved bytes/s and FLOP/s of the measured runs against the ceilings of `melt doctor "
        "--ceilings`. of roof: least time that the ceilings allow / time taken; bw, flop: which ceiling binds.",
    )
    parser.add_argument("trace", metavar="T.melt", help="a trace with the level ops")
    parser.add_argument("--by", choices=_BY, default="op_type", help="what to group by (default: op_type)")
    parser.add_argument("--phase", choices=_PHASES, help="only this phase (default: both, each on its own)")
    parser.add_argument(
        "--top", type=int, metavar="N", help=f"only the N longest of a phase (default: {_TEXT_ROWS}; all with --json)"
    )
    parser.add_argument("-o", "--output", metavar="FILE.svg", help="draw it too")
    parser.add_argument("--json", action="store_true", help="print JSON: times in ns, rates per second")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the roofline of each phase and the MBU, and draws them if asked."""
    if args.top is not None and args.top < 1:
        raise InvalidArgumentError(f"--top {args.top}: ask for at least one row")
    trace = open_trace(args.trace)
    ceilings = required_ceilings()
    from melt_core.analysis.mbu import mbu_of
    from melt_core.analysis.roofline import roofline

    phases = _PHASES if args.phase is None else (args.phase,)
    found = [roofline(trace, ceilings, by=args.by, phase=phase) for phase in phases]
    if not any(each.rows for each in found):
        which = "" if args.phase is None else f" in the {args.phase} phase"
        raise MeltError(f"{args.trace} holds no ops{which}: record it with `melt profile --levels tokens,ops`")
    if args.output is not None:
        _draw(args.output, found, trace)
    mbu = mbu_of(trace, ceilings)
    if args.json:
        print_json(_as_json(found, mbu, ceilings, args.top))
        return 0
    from melt_core.report.roofline_text import format_roofline

    print(format_roofline(found, mbu, ceilings.describe(), max_rows=args.top or _TEXT_ROWS))
    return 0


def _draw(path: str, found: Sequence[Roofline], trace: Trace) -> None:
    from melt_core.report._roofline_chart import can_draw, standalone
    from melt_core.trace.metadata import text
    from melt_core.trace.storage import written_atomically

    if not can_draw(found):
        raise MeltError("nothing to draw: no op of this trace has both FLOPs and bytes")
    model = text(trace.metadata, "model", "name") or "roofline"
    cpu = text(trace.metadata, "device", "cpu_model")
    with written_atomically(path, inputs=[trace.path]) as file:
        file.write(standalone(found, model if cpu is None else f"{model} on {cpu}").encode("utf-8", "replace"))


def _as_json(found: Sequence[Roofline], mbu: Mbu, ceilings: Ceilings, top: int | None) -> dict[str, Any]:
    from melt_core.report.roofline_text import mbu_warnings

    phases = {}
    for each in found:
        values = dataclasses.asdict(each)
        values["rows"] = values["rows"][:top]
        values["warnings"] = [*values.pop("ceiling_warnings"), *each.row_warnings(top)]
        values["bandwidths"] = [{"working_set_bytes": size, "bytes_per_s": rate} for size, rate in each.bandwidths]
        values["rates"] = [{"family": family, "flop_per_s": rate} for family, rate in each.rates]
        phases[each.phase] = values
    figures = dataclasses.asdict(mbu) | {"warnings": mbu_warnings(mbu)}
    return {"ceilings": ceilings.describe(), "phases": phases, "mbu": figures}
