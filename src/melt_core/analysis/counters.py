"""Counters and disturbed ops of the measured runs, as the summary and `melt ops --counters` show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.group import DERIVED, key_averages
from melt_core.errors import TraceError
from melt_core.trace.counters import counter_names, disturbed_reason, disturbed_source
from melt_core.trace.format import NONE, ChunkKind
from melt_core.trace.metadata import number

if TYPE_CHECKING:
    from melt_core.trace.table import Table
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

#: More than this share of groups disturbed is worth a warning: then sums say more of the host than of the model.
MAX_DISTURBED_RATIO = 0.01


@dataclass(frozen=True)
class Disturbed:
    """Op groups of the measured runs within which one of their threads lost its processor.

    Attributes:
        groups: How many; None where the trace does not know, and `reason` says why.
        of_groups: Of how many.
        switches: Times that a computing thread lost its processor in those runs, in an op or not; None: not noted.
        migrations: Of these, those after which it went on on another processor.
    """

    groups: int | None
    of_groups: int
    switches: int | None
    migrations: int | None
    source: str | None
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


@dataclass(frozen=True)
class CounterTotals:
    """What was counted in the measured runs, per phase over all threads; what was not, with the reason."""

    phases: Mapping[str, Mapping[str, float | None]]
    missing: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {"phases": {name: dict(values) for name, values in self.phases.items()}, "missing": dict(self.missing)}


def disturbed_of(trace: Trace, measured: Array) -> Disturbed | None:
    """Returns how many groups of the measured runs were disturbed; None for a trace from before that was noted."""
    if "disturbed" not in trace.metadata:
        return None
    of_groups = sum(trace.records(ChunkKind.RUNS)["n_groups"][measured].tolist())
    source = disturbed_source(trace)
    if source is None:
        return Disturbed(None, of_groups, None, None, None, disturbed_reason(trace))
    groups = 0
    for block in trace.op_blocks():
        marked = block[(block["flags"] != 0) & (block["thread"] == 0) & (block["graph"] != NONE)]
        run, _ = trace.op_context.of(
            token=marked["token"], graph=marked["graph"], op=marked["op"], start_ns=marked["start_ns"]
        )
        groups += int(np.isin(run, measured).sum())
    if number(trace.metadata, "disturbed", "n_switches") is None:  # counted per op, without when
        return Disturbed(groups, of_groups, None, None, source, None)
    switches = trace.records(ChunkKind.SWITCHES)
    switches = switches[np.isin(switches["run"], measured)]
    migrations = int((switches["cpu_before"] != switches["cpu_after"]).sum())
    return Disturbed(groups, of_groups, len(switches), migrations, source, None)


def counters_of(trace: Trace) -> CounterTotals | None:
    """Returns the totals of level counters; None for a trace without that level."""
    if "counters" not in trace.metadata:
        return None
    names = _columns(trace)
    phases = {
        row["key"]: {name: row[name] for name in names}
        for row in (key_averages(trace, group_by="phase").to_dicts() if names else [])
        if row["key"] in ("prefill", "decode")
    }
    return CounterTotals(phases, _texts(trace, "missing"))


def counter_warnings(trace: Trace, disturbed: Disturbed | None) -> list[str]:
    """Returns one line for each reason to distrust counters and marks, or the times of many ops."""
    warnings = []
    if disturbed is not None and disturbed.groups is not None and disturbed.of_groups:
        share = disturbed.groups / disturbed.of_groups
        if share > MAX_DISTURBED_RATIO:
            warnings.append(
                f"within {share:.1%} of the op groups a thread lost its processor: see melt ops --no-disturbed"
            )
    lost = number(trace.metadata, "disturbed", "n_lost")
    if lost:
        warnings.append(f"{lost:.0f} or more context switches found no room: some disturbed ops are not marked")
    scaled = number(trace.metadata, "counters", "n_scaled")
    if scaled:
        warnings.append(
            f"the processor's counters were shared: those of {scaled:.0f} op records are scaled, or missing"
        )
    for thread, reason in _texts(trace, "not_counted_threads").items():
        warnings.append(f"thread {thread} was not counted: {reason}")
    return warnings


def with_counters(trace: Trace, table: Table) -> Table:
    """Returns the part of a `key_averages` table that shows counters: key, count, wall time, then what was counted.

    Raises:
        TraceError: if the trace was recorded without level counters, or none could be counted.
    """
    names = _columns(trace)
    if "counters" not in trace.metadata:
        where = trace.path or "the trace"
        raise TraceError(f"{where} was recorded without level counters: profile with --levels tokens,counters")
    if not names:
        reasons = "; ".join(dict.fromkeys(_texts(trace, "missing").values())) or "the trace does not say why"
        raise TraceError(f"nothing could be counted: {reasons}")
    shown = ["key", "count", "wall_ns", *(name for name in names if name in table.columns)]
    if "disturbed" in table.columns:
        shown.append("disturbed")
    return type(table).from_arrays({name: table[name] for name in shown}, table.missing)


def missing_lines(trace: Trace) -> list[str]:
    """Returns the counters that are absent, with the reason; those with the same reason in one line."""
    names: dict[str, list[str]] = {}
    for name, reason in _texts(trace, "missing").items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(each)}: {reason}" for reason, each in names.items()]


def _columns(trace: Trace) -> list[str]:
    """Returns the columns that counters give a table of groups: what follows from two of them first."""
    names = counter_names(trace) if trace.chunks(ChunkKind.OPS) else ()
    derived = [name for name, (above, below, _) in DERIVED.items() if above in names and below in names]
    return [*derived, *names]


def _texts(trace: Trace, key: str) -> dict[str, str]:
    counters = trace.metadata.get("counters")
    found = counters.get(key) if isinstance(counters, Mapping) else None
    return {str(name): str(reason) for name, reason in found.items()} if isinstance(found, Mapping) else {}
