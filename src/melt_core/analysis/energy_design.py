"""The design behind energy per op: for each reading, how its time was shared among groups of ops.

op records of the main thread -> when each group ran -> share of each reading's window -> rows of a regression
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_window import Span
from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.trace.format import ChunkKind, Phase
from melt_core.trace.tables import decode_text
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

GROUPINGS: Final = ("op_type", "module", "phase")
#: Time of the runs in no group: between ops, and between graphs.
OUTSIDE: Final = "outside ops"
#: Time outside the measured runs.
IDLE: Final = "idle"
OTHERS: Final = "others"
#: Between a group and a part of it, in a column's name.
_WITHIN: Final = ", "
#: Groups below this share of the time are one: none of them could be told from the noise.
_MIN_SHARE: Final = 0.02
_MAX_GROUPS: Final = 10


@dataclass(frozen=True)
class Timeline:
    """When one group ran: intervals that do not overlap, in order."""

    starts: Array
    ends: Array

    @staticmethod
    def of(starts: Array, ends: Array) -> Timeline:
        """Sorts the intervals and cuts what overlaps."""
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order].astype(np.int64), ends[order].astype(np.int64)
        reached = np.maximum.accumulate(np.append(np.int64(np.iinfo(np.int64).min), ends[:-1]))
        starts = np.maximum(starts, reached)
        kept = ends > starts
        return Timeline(starts[kept], ends[kept])

    @property
    def total_s(self) -> float:
        """How long it ran."""
        return float((self.ends - self.starts).sum()) / NS_PER_S

    def until(self, time_ns: Array) -> Array:
        """Returns for how many seconds it had run by each time."""
        if not len(self.starts):
            return np.zeros(len(time_ns))
        lengths = self.ends - self.starts
        before = np.append(0, np.cumsum(lengths))
        at = np.searchsorted(self.starts, time_ns, side="right") - 1
        inside = np.clip(time_ns - self.starts[np.maximum(at, 0)], 0, lengths[np.maximum(at, 0)])
        ran: Array = np.where(at >= 0, before[np.maximum(at, 0)] + inside, 0) / NS_PER_S
        return ran

    def within(self, spans: Sequence[Span]) -> Timeline:
        """Returns the part that lies in the given windows, which are in order and apart."""
        begins = np.array([start for start, _ in spans], np.int64)
        finishes = np.array([end for _, end in spans], np.int64)
        at = np.clip(np.searchsorted(begins, self.starts, side="right") - 1, 0, len(begins) - 1)
        return Timeline.of(np.maximum(self.starts, begins[at]), np.minimum(self.ends, finishes[at]))


def timelines_of(trace: Trace, by: str, spans: Sequence[Span]) -> dict[str, Timeline]:
    """Returns when each group ran within the windows, and when none of them did (`OUTSIDE`).

    Args:
        trace: The trace; all but "phase" need op records.
        by: One of `GROUPINGS`.
        spans: The measured runs.

    Raises:
        InvalidArgumentError: There is no such grouping.
        TraceError: The trace holds no ops.
    """
    if by not in GROUPINGS:
        raise InvalidArgumentError(f"cannot share out energy by {by!r}: choose one of {', '.join(GROUPINGS)}")
    found = _of_phases(trace, spans) if by == "phase" else _of_ops(trace, by, spans)
    found = _merged(found)
    busy = Timeline.of(
        np.concatenate([line.starts for line in found.values()] or [np.zeros(0, np.int64)]),
        np.concatenate([line.ends for line in found.values()] or [np.zeros(0, np.int64)]),
    )
    return {**found, OUTSIDE: _rest(busy, spans)}


def _of_phases(trace: Trace, spans: Sequence[Span]) -> dict[str, Timeline]:
    phases = trace.records(ChunkKind.PHASES)
    found = {}
    for phase in (Phase.TOKENIZE, Phase.PREFILL, Phase.DECODE):
        rows = phases[phases["phase"] == phase]
        if len(rows):
            line = Timeline.of(rows["start_ns"], rows["start_ns"] + rows["duration_ns"])
            found[phase.name.lower()] = line.within(spans)
    return found


def _of_ops(trace: Trace, by: str, spans: Sequence[Span]) -> dict[str, Timeline]:
    """Returns when the ops of each group ran on the main thread, which has no two of them at once.

    Ops of different types draw differently, and a column that mixed them would take over power of others. So a module
    has a column for each type of op in it.
    """
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    labels = decode_text(definitions[by])
    if by != "op_type":
        labels = np.array(
            [f"{a}{_WITHIN}{b}" for a, b in zip(labels, decode_text(definitions["op_type"]), strict=True)]
        )
    names, group_of = np.unique(labels.astype(str), return_inverse=True)
    pieces: list[list[tuple[Array, Array]]] = [[] for _ in names]
    for block in trace.op_blocks():
        main = block[block["thread"] == 0]
        group, start = group_of[main["op"]], main["start_ns"]
        end = start + main["compute_ns"] + main["wait_ns"]
        for number in np.unique(group).tolist():
            own = group == number
            pieces[number].append((start[own], end[own]))
    found = {}
    for name, parts in zip(names.tolist(), pieces, strict=True):
        if parts:
            starts, ends = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
            found[name or "?"] = Timeline.of(starts, ends).within(spans)
    found = {name: line for name, line in found.items() if len(line.starts)}
    if not found:
        raise TraceError(
            f"{trace.path or 'the trace'} holds no ops of a measured run: profile with --levels tokens,ops, "
            "or share out by phase"
        )
    return found


def _merged(found: Mapping[str, Timeline]) -> dict[str, Timeline]:
    """Returns the groups that take time enough, longest first, the others as one."""
    total = sum(line.total_s for line in found.values())
    order = sorted(found, key=lambda name: -found[name].total_s)
    large = [name for name in order if found[name].total_s >= _MIN_SHARE * total][:_MAX_GROUPS]
    small = [name for name in order if name not in large]
    merged = {name: found[name] for name in large}
    if small:
        starts, ends = (np.concatenate([getattr(found[name], side) for name in small]) for side in ("starts", "ends"))
        keys = {key_of(name) for name in small}
        name = small[0] if len(small) == 1 else f"{keys.pop()}{_WITHIN}" if len(keys) == 1 else OTHERS
        merged[name] = Timeline.of(starts, ends)
    return merged


def key_of(name: str) -> str:
    """Returns the group that a column belongs to: of "ffn, MUL_MAT" that is "ffn"."""
    return name.partition(_WITHIN)[0]


def _rest(busy: Timeline, spans: Sequence[Span]) -> Timeline:
    """Returns the time of the windows in which nothing is busy."""
    starts = np.concatenate([[start for start, _ in spans], busy.ends])
    ends = np.concatenate([busy.starts, [end for _, end in spans]])
    order_starts, order_ends = np.sort(starts).astype(np.int64), np.sort(ends).astype(np.int64)
    # Between the n-th end of something busy (or begin of a window) and the n-th begin after it, nothing is.
    return Timeline.of(order_starts, order_ends)


def shares(timelines: Mapping[str, Timeline], begin_ns: Array, end_ns: Array) -> Array:
    """Returns for each window the share of each group, and of idle time as the last column: [n, groups + 1]."""
    seconds = (end_ns - begin_ns) / NS_PER_S
    columns = [(line.until(end_ns) - line.until(begin_ns)) / seconds for line in timelines.values()]
    columns.append(np.maximum(1.0 - sum(columns, np.zeros(len(seconds))), 0.0))
    return np.stack(columns, axis=1)
