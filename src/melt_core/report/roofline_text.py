"""The roofline as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melt_core.analysis.ceiling_checks import MAX_CEILING_RATIO, over_reason
from melt_core.report import human

if TYPE_CHECKING:
    from melt_core.analysis.mbu import Mbu
    from melt_core.analysis.roofline import Roofline, RooflineRow

_WIDTH = 80
_HEADINGS = ("count", "wall", "share", "GB/s", "GFLOP/s", "FLOP/B", "bound", "of roof")
_MIN_KEY_WIDTH = 8


def format_roofline(found: Sequence[Roofline], mbu: Mbu, machine: str, *, max_rows: int | None = None) -> str:
    """Returns a table per phase, the line on what binds it, the MBU, and the warnings.

    Args:
        found: Phases, in order.
        mbu: Of decode.
        machine: What the ceilings are of.
        max_rows: The longest so many of each phase; None for all.
    """
    lines = _wrapped(f"ceilings: {machine}")
    for each in found:
        lines += ["", *_phase_lines(each, max_rows)]
    lines += ["", *_wrapped(mbu_text(mbu))]
    warnings = list(dict.fromkeys(warning for each in found for warning in each.ceiling_warnings))
    warnings += mbu_warnings(mbu)
    for each in found:
        warnings += each.row_warnings(max_rows)
    if warnings:
        lines.append("")
    for warning in warnings:
        lines += _wrapped(f"warning: {human.plain(warning)}", indent=9)
    return "\n".join(lines)


def bound_text(found: Roofline) -> str:
    """Returns the paper's claim as a sentence: what share of the phase's op time which ceiling binds."""
    if not found.rows:
        return f"{found.phase}: no op was recorded"
    explained = ""
    if found.ceiling_ratio is not None:
        explained = f"; at the ceilings these would take {human.percent(found.ceiling_ratio)} of their time"
    return (
        f"{found.phase}: {human.percent(found.bandwidth_share)} of op time bandwidth-bound, "
        f"{human.percent(found.compute_share)} compute-bound, "
        f"{human.percent(found.unknown_share)} not placed{explained}"
    )


def roofs_text(found: Roofline) -> str:
    """Returns the ceilings that were used: the three bandwidths and the rates behind most of the time."""
    bandwidths = [f"{human.size_bytes(rate)}/s at {human.size_bytes(size)}" for size, rate in found.bandwidths[:3]]
    rates = [f"{human.count(rate, 'FLOP/s')} {name}" for name, rate in found.rates[:3]]
    return "; ".join([*bandwidths, *rates]) or "none"


def mbu_text(mbu: Mbu) -> str:
    """Returns the MBU with what it is made of, or why there is none."""
    if mbu.ratio is None:
        return f"MBU of decode: unknown: {mbu.reason}"
    return (
        f"MBU of decode: {human.percent(mbu.ratio)} = ({human.size_bytes(mbu.weight_bytes)} weights + "
        f"{human.size_bytes(mbu.kv_bytes)} KV) x {human.rate(mbu.decode_tok_s)} / "
        f"{human.size_bytes(mbu.bandwidth_bytes_per_s)}/s"
    )


def mbu_warnings(mbu: Mbu) -> list[str]:
    """Returns why an MBU is to be distrusted; none where it is possible."""
    if mbu.ratio is None or mbu.ratio <= MAX_CEILING_RATIO:
        return []
    other = "part of the weights stayed in a cache between two steps"
    return [f"MBU of decode is more than {MAX_CEILING_RATIO:.0%}: {over_reason(other)}"]


def _phase_lines(found: Roofline, max_rows: int | None) -> list[str]:
    if not found.rows:
        return [bound_text(found)]
    shown = found.rows if max_rows is None else found.rows[:max_rows]
    cells = [_cells(row) for row in shown]
    widths = [max(len(heading), *(len(row[at]) for row in cells)) for at, heading in enumerate(_HEADINGS)]
    room = _WIDTH - sum(widths) - 2 * len(widths)
    keys = [human.plain(row.key or "other") for row in shown]
    width = max(min(room, max(map(len, [found.by, *keys]))), _MIN_KEY_WIDTH)
    lines = [found.phase, _line(found.by, width, _HEADINGS, widths)]
    lines += [_line(key, width, row, widths) for key, row in zip(keys, cells, strict=True)]
    if len(found.rows) > len(shown):
        lines.append(f"... {len(found.rows) - len(shown)} more of {len(found.rows)} rows")
    threads = "1 thread" if found.n_threads == 1 else f"{found.n_threads} threads"
    lines += _wrapped(bound_text(found))
    lines += _wrapped(f"roofs with {threads}: {roofs_text(found)}")
    if found.no_formula:
        lines += _wrapped(f"no formula: {', '.join(map(human.plain, found.no_formula))}")
    return lines


def _cells(row: RooflineRow) -> tuple[str, ...]:
    return (
        str(row.count),
        human.time_ns(row.wall_ns),
        human.percent(row.share),
        _scaled(row.bytes_per_s),
        _scaled(row.flop_per_s),
        human.MISSING if row.intensity_flop_per_byte is None else human.significant(row.intensity_flop_per_byte, 2),
        {"bandwidth": "bw", "compute": "flop"}.get(row.bound or "", human.MISSING),
        human.percent(row.ceiling_ratio) + ("!" if row.warning else ""),
    )


def _scaled(value: float | None) -> str:
    return human.MISSING if value is None else human.significant(value / 1e9, 3)


def _line(key: str, width: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = key if len(key) <= width else key[: width - 1] + "~"
    return "  ".join([shown.ljust(width), *(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))])


def _wrapped(text: str, *, indent: int = 2) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=True)
