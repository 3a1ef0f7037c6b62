"""A machine's ceilings as text of at most 80 columns."""

from __future__ import annotations

import textwrap

from melt_core.analysis.ceiling_checks import lower_with_more_threads
from melt_core.analysis.ceilings import FLOPS, READ_BANDWIDTH, Ceiling, Ceilings
from melt_core.report import human
from melt_core.report.text import WIDTH


def format_ceilings(ceilings: Ceilings) -> str:
    """Returns identity, bandwidths, arithmetic rates, what is absent, and notes."""
    frequency = human.MISSING if ceilings.frequency_hz is None else human.count(ceilings.frequency_hz, "Hz")
    lines = [
        *_line("CPU", human.plain(ceilings.cpu_model)),
        *_line("measured", human.plain(f"{ceilings.measured_at} on {ceilings.hostname}, core {ceilings.core_version}")),
        *_line("frequency", frequency),
        *_line("threads", "each pinned to a CPU" if ceilings.pinned else "not pinned: the system moves them"),
    ]
    lines += ["", _row("read bandwidth", "working set", "threads", "best", "median", "rounds")]
    lines += [_shown(row, "B/s") for row in ceilings.ceilings if row.kind == READ_BANDWIDTH]
    lines += ["", _row("arithmetic", "", "threads", "best", "median", "rounds")]
    lines += [_shown(row, "FLOP/s") for row in ceilings.ceilings if row.kind == FLOPS]
    if ceilings.absent:
        lines.append("")
    for absent in ceilings.absent:
        threads = "" if absent.n_threads is None else f", {absent.n_threads} threads"
        lines += _line("absent", human.plain(f"{absent.family}{threads}: {absent.reason}"))
    lines.append("")
    doubts = lower_with_more_threads(ceilings)
    for note in (*doubts, f"widest reads tried: {ceilings.read_instructions}", *ceilings.notes):
        lines += _line("note", human.plain(note))
    return "\n".join(lines)


def _shown(row: Ceiling, unit: str) -> str:
    size = "" if row.working_set_bytes is None else human.size_bytes(row.working_set_bytes)
    best, median = human.count(row.best, unit), human.count(row.median, unit)
    return _row(human.plain(row.family), size, str(row.n_threads), best, median, str(row.n))


def _row(name: str, size: str, threads: str, best: str, median: str, rounds: str) -> str:
    return f"{name[:18]:<18}{size:>12}{threads:>9}{best:>15}{median:>15}{rounds:>8}".rstrip()


def _line(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{label:<12}{text}", WIDTH, subsequent_indent=" " * 12, break_long_words=True, break_on_hyphens=False
    )
