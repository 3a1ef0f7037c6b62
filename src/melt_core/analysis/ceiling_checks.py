"""When not to trust measured ceilings: their notes, what cannot be true of an idle machine, ops that exceed them."""

from __future__ import annotations

from typing import Any

from melt_core.analysis.ceilings import Ceiling, Ceilings
from melt_core.analysis.streamed import ATTENTION

#: Above this share of its ceiling, an op's figures are questioned.
MAX_CEILING_RATIO = 1.05
#: How to have better ones, at the end of every doubt.
MEASURE_AGAIN = "melt doctor --ceilings --remeasure measures again"
#: A ceiling with more threads that is lower by less than this may be chance.
_NOISE_RATIO = 0.03
_MAX_NAMES = 6


def ceiling_doubts(ceilings: Ceilings) -> tuple[str, ...]:
    """Returns one line for each reason to distrust the ceilings: disturbed rounds, and more threads doing less."""
    disturbed = [note for note in ceilings.notes if note.startswith("disturbed")]
    return (*(f"ceilings {note}" for note in disturbed), *lower_with_more_threads(ceilings))


def lower_with_more_threads(ceilings: Ceilings) -> tuple[str, ...]:
    """Returns a line for each number of threads whose ceilings are in part lower than with fewer threads."""
    ranked = _ranked(ceilings.ceilings)
    lines = []
    for n_threads in sorted({row.n_threads for row in ceilings.ceilings}):
        drops: dict[str, float] = {}
        for (kind, family, rank, count), row in ranked.items():
            fewer = [
                each.value for key, each in ranked.items() if key[:3] == (kind, family, rank) and key[3] < n_threads
            ]
            if count == n_threads and fewer and row.value < max(fewer) * (1 - _NOISE_RATIO):
                drops[family] = max(drops.get(family, 0.0), 1 - row.value / max(fewer))
        if drops:
            shown = sorted(drops, key=lambda name: -drops[name])[:_MAX_NAMES]
            more = f" and {len(drops) - len(shown)} more" if len(drops) > len(shown) else ""
            lines.append(
                f"ceilings with {n_threads} threads are lower than with fewer, by up to {max(drops.values()):.0%} "
                f"({', '.join(shown)}{more}): other work was running, or threads shared a core; {MEASURE_AGAIN}"
            )
    return tuple(lines)


def _ranked(rows: tuple[Ceiling, ...]) -> dict[tuple[str, str, int, int], Ceiling]:
    """Returns the rows by kind, family, place among the working sets of that family, and threads.

    Sets grow with the threads, so they are paired by their order: the smaller L3 set with the smaller one.
    """
    ranked: dict[tuple[str, str, int, int], Ceiling] = {}
    for row in sorted(rows, key=lambda each: each.working_set_bytes or 0):
        rank = sum(key[:2] == (row.kind, row.family) and key[3] == row.n_threads for key in ranked)
        ranked[row.kind, row.family, rank, row.n_threads] = row
    return ranked


def over_reason(other: str) -> str:
    """Returns why a figure lies above its ceiling: the trace cannot tell which of the two it is."""
    return f"either the ceiling was measured too low ({MEASURE_AGAIN}), or {other}"


def why_over(definition: Any, phase: str, bound: str | None) -> str:
    """Returns what may make an op of this kind report more than its ceiling."""
    op_type = definition["op_type"].decode("utf-8", "replace").partition("+")[0]
    if bound == "compute":
        other = "the kernel used faster instructions than the family assumed, or the clock ran faster then"
    elif op_type == ATTENTION and phase == "prefill":
        other = "the kernel skipped masked and padded positions, which are counted by shape"
    elif op_type == ATTENTION:
        other = "K and V came from a cache, or a sliding window spared positions that are counted"
    elif op_type == "MUL_MAT_ID":
        other = "some of the experts, which are counted by shape as all different, came twice or from a cache"
    elif definition["weight"]:
        other = "part of the weights stayed in a cache between two steps"
    else:
        other = "part of the data stayed in a nearer cache: the op before had just written it"
    return f"more than {MAX_CEILING_RATIO:.0%} of the ceiling: {over_reason(other)}"
