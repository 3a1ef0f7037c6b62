"""`key_averages`: where the time goes, per op type, layer, module and so on, in one pass over the op records.

Definitions (docs/measuring_honestly.md): on the main thread (0) the groups of a graph follow each other without
overlap, so the sum of its compute and wait times is the wall time of the graph. Hence, per key:

- count: groups executed (records of the main thread)
- wall_ns: compute + wait on the main thread; share: its part of all keys' wall_ns
- compute_ns, wait_ns: summed over all threads, so that together they may exceed wall_ns
- bytes, flops: of the groups executed, each counted once and not per thread; ops without a formula are left out,
  and a key of which nothing is known has NaN, never 0
- live_bytes: the most that is needed of activations at any of the key's ops (analysis/liveness.py)
- disturbed: groups of those executed within which a thread lost its processor, also where they are left out; the
  column is there only if the trace knows
- counters (level counters): summed over all threads, where they were read; ipc = instructions / cycles, and misses per
  1000 instructions
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.trace.context import UNKNOWN_PHASE
from melt_core.trace.counters import counter_names, disturbed_reason, disturbed_source
from melt_core.trace.format import RUN_WARMUP, ChunkKind, Phase
from melt_core.trace.table import Table
from melt_core.trace.tables import decode_text, names_of

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

#: What ops can be grouped by, and the field of the op definition it is; None where it is not part of it.
_FIELD_OF_KEY: dict[str, str | None] = {
    "op_type": "op_type",
    "layer": "layer",
    "module": "module",
    "phase": None,
    "name": "op",
    "thread": None,
    "dtype": "dtype",
    "weight": "weight",
    "backend": "backend",
}
GROUP_KEYS = tuple(_FIELD_OF_KEY)
_N_PHASES = UNKNOWN_PHASE + 1
_MAX_NS = 2.0**62


@dataclass
class Sums:
    """Totals per code, in arrays of equal length. The first two count the main thread only, as `disturbed` does.

    Of the counters, `counted` says how many records had each: a sum of none is not known, and no zero.
    """

    count: Array
    wall_ns: Array
    compute_ns: Array
    wait_ns: Array
    disturbed: Array
    counters: dict[str, Array] = field(default_factory=dict)
    counted: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def zeros(cls, n_codes: int, counters: Sequence[str] = ()) -> Sums:
        """Returns empty totals."""
        return cls(
            count=np.zeros(n_codes, np.int64),
            wall_ns=np.zeros(n_codes),
            compute_ns=np.zeros(n_codes),
            wait_ns=np.zeros(n_codes),
            disturbed=np.zeros(n_codes, np.int64),
            counters={name: np.zeros(n_codes) for name in counters},
            counted={name: np.zeros(n_codes, np.int64) for name in counters},
        )

    def add(self, block: Array, codes: Array, *, each_is_main: bool = False) -> None:
        """Adds a block of op records of which each belongs to a code; the code behind the last is left out.

        With `each_is_main`, every record counts as one of the main thread.
        """
        n_codes = len(self.count)
        compute, wait = block["compute_ns"], block["wait_ns"]
        # One histogram over (code, is it the main thread); the last two bins take what is left out.
        slots = codes * 2
        if not each_is_main:
            slots += block["thread"] != 0
        bins = 2 * n_codes + 2
        self.count += np.bincount(slots, minlength=bins)[: 2 * n_codes : 2]
        compute_sums = np.bincount(slots, weights=compute, minlength=bins)[: 2 * n_codes].reshape(-1, 2)
        wait_sums = np.bincount(slots, weights=wait, minlength=bins)[: 2 * n_codes].reshape(-1, 2)
        self.wall_ns += compute_sums[:, 0] + wait_sums[:, 0]
        self.compute_ns += compute_sums.sum(axis=1)
        self.wait_ns += wait_sums.sum(axis=1)
        for name, total in self.counters.items():
            known = np.isfinite(block[name])
            total += np.bincount(codes[known], weights=block[name][known], minlength=n_codes + 1)[:n_codes]
            self.counted[name] += np.bincount(codes[known], minlength=n_codes + 1)[:n_codes]

    def add_disturbed(self, block: Array, codes: Array, *, each_is_main: bool = False) -> None:
        """Counts the records of the main thread that are marked as disturbed."""
        marked = block["flags"] != 0
        if not each_is_main:
            marked &= block["thread"] == 0
        n_codes = len(self.count)
        self.disturbed += np.bincount(codes[marked], minlength=n_codes + 1)[:n_codes]

    def regrouped(self, group_of: Array, n_groups: int) -> Sums:
        """Returns the totals of groups of codes."""

        def regroup(values: Array) -> Array:
            sums = np.bincount(group_of, weights=values, minlength=n_groups)
            return sums.astype(np.int64) if values.dtype.kind == "i" else sums

        return Sums(
            count=regroup(self.count),
            wall_ns=regroup(self.wall_ns),
            compute_ns=regroup(self.compute_ns),
            wait_ns=regroup(self.wait_ns),
            disturbed=regroup(self.disturbed),
            counters={name: regroup(values) for name, values in self.counters.items()},
            counted={name: regroup(values) for name, values in self.counted.items()},
        )

    def counter_columns(self) -> dict[str, Array]:
        """Returns the counters, NaN where none was read, and what follows from two of them (see the module)."""
        columns = {name: np.where(self.counted[name] > 0, total, np.nan) for name, total in self.counters.items()}
        for name, (above, below, per) in DERIVED.items():
            if above in columns and below in columns:
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratio = columns[above] * per / columns[below]
                columns[name] = np.where(columns[below] > 0, ratio, np.nan)
        return columns


#: Column -> counter above, counter below, per how many of the latter.
DERIVED: Final[dict[str, tuple[str, str, float]]] = {
    "ipc": ("instructions", "cycles", 1.0),
    "llc_mpki": ("llc_misses", "instructions", 1000.0),
    "branch_mpki": ("branch_misses", "instructions", 1000.0),
}


@dataclass(frozen=True)
class Selection:
    """Which op records count."""

    phase: int | None = None
    include_warmup: bool = False
    exclude_disturbed: bool = False


def key_averages(
    trace: Trace,
    *,
    group_by: str = "op_type",
    phase: str | None = None,
    include_warmup: bool = False,
    exclude_disturbed: bool = False,
) -> Table:
    """Returns a table `key, count, wall_ns, share, compute_ns, wait_ns, bytes, flops, live_bytes`, the longest first.

    Behind them `disturbed` where the trace knows, and the counters where it has any.

    Grouped by thread, wall_ns and count are that thread's own, and bytes, flops and live_bytes NaN: a group's bytes
    belong to all its threads together.

    Args:
        trace: The trace.
        group_by: One of `GROUP_KEYS`.
        phase: Only this phase.
        include_warmup: Count warm-up runs too.
        exclude_disturbed: Leave out the groups within which a thread lost its processor.

    Raises:
        InvalidArgumentError: if there is no such grouping or phase.
        TraceError: if disturbed groups are to be left out and the trace does not know them.
    """
    if group_by not in _FIELD_OF_KEY:
        raise InvalidArgumentError(f"cannot group by {group_by!r}: choose one of {', '.join(GROUP_KEYS)}")
    if exclude_disturbed and disturbed_source(trace) is None:
        raise TraceError(f"which ops were disturbed is not known: {disturbed_reason(trace)}")
    selection = Selection(_phase_number(phase), include_warmup, exclude_disturbed)
    if group_by == "thread":
        return _by_thread(trace, selection)
    if group_by == "phase":
        return _by_phase(trace, selection)
    return _by_definition(trace, selection, str(_FIELD_OF_KEY[group_by]))


def _phase_number(phase: str | None) -> int | None:
    if phase is None:
        return None
    names = [member.name.lower() for member in Phase]
    if phase not in names:
        raise InvalidArgumentError(f"no phase {phase!r}: choose one of {', '.join(names)}")
    return int(Phase[phase.upper()])


def per_definition(trace: Trace, selection: Selection) -> Sums:
    """Returns the totals of each op definition; worked out once: a report asks for the same ones many times."""
    if selection not in trace.op_sums:
        n_definitions = len(trace.records(ChunkKind.OP_DEFINITIONS))
        trace.op_sums[selection] = _summed(
            trace, selection, n_definitions, lambda block, _: block["op"].astype(np.intp)
        )
    sums: Sums = trace.op_sums[selection]
    return sums


def _summed(
    trace: Trace,
    selection: Selection,
    n_codes: int,
    code_of: Callable[[Array, Array], Array],
    *,
    each_is_main: bool = False,
) -> Sums:
    """Adds up all op records that count, by `code_of(block, phase numbers)`."""
    sums = Sums.zeros(n_codes, counter_names(trace))
    knows_disturbed = disturbed_source(trace) is not None
    runs = trace.records(ChunkKind.RUNS)
    is_warmup = np.append((runs["flags"] & RUN_WARMUP) != 0, False)
    drop_warmup = not selection.include_warmup and bool(is_warmup.any())
    for block in trace.op_blocks():
        run, phase = trace.op_context.of(
            token=block["token"], graph=block["graph"], op=block["op"], start_ns=block["start_ns"]
        )
        codes = code_of(block, phase)
        if drop_warmup:
            codes = np.where(is_warmup[np.minimum(run, len(runs))], n_codes, codes)
        if selection.phase is not None:
            codes = np.where(phase == selection.phase, codes, n_codes)
        if knows_disturbed:
            sums.add_disturbed(block, codes, each_is_main=each_is_main)
        if selection.exclude_disturbed:
            codes = np.where(block["flags"] != 0, n_codes, codes)
        sums.add(block, codes, each_is_main=each_is_main)
    return sums


def _by_definition(trace: Trace, selection: Selection, field: str) -> Table:
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    sums = per_definition(trace, selection)
    keys, group_of = np.unique(definitions[field], return_inverse=True)
    n_bytes = bytes_moved(definitions)
    grouped = sums.regrouped(group_of, len(keys))
    known_bytes = _known_total(sums.count, n_bytes, group_of, len(keys))
    known_flops = _known_total(sums.count, definitions["flops"], group_of, len(keys))
    live = _known_most(sums.count, definitions["live_bytes"], group_of, len(keys))
    if field == "layer":
        return _table(trace, keys, grouped, known_bytes, known_flops, live, missing=-1)
    return _table(trace, decode_text(keys), grouped, known_bytes, known_flops, live, missing="")


def bytes_moved(definitions: Array) -> Array:
    """Returns bytes read and written by each op; NaN where not known, as where a damaged file says infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        moved = definitions["bytes_read"] + definitions["bytes_written"]
    known: Array = np.where(np.isfinite(moved), moved, np.nan)
    return known


def _known_total(count: Array, each: Array, group_of: Array, n_groups: int) -> Array:
    """Returns count * each per group over the definitions where `each` is known, NaN for groups without any."""
    known = np.isfinite(each) & (count > 0)
    totals = np.bincount(group_of[known], weights=count[known] * each[known], minlength=n_groups)
    return np.where(np.bincount(group_of[known], minlength=n_groups) > 0, totals, np.nan)


def _known_most(count: Array, each: Array, group_of: Array, n_groups: int) -> Array:
    """Returns the greatest per group over the definitions that ran and are known (above 0), NaN for groups without."""
    known = (each > 0) & (count > 0)
    most = np.zeros(n_groups)
    np.maximum.at(most, group_of[known], each[known])
    return np.where(most > 0, most, np.nan)


def _by_phase(trace: Trace, selection: Selection) -> Table:
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    n_bytes = bytes_moved(definitions)
    n_codes = len(definitions) * _N_PHASES
    sums = _summed(trace, selection, n_codes, lambda block, phase: block["op"].astype(np.intp) * _N_PHASES + phase)
    group_of = np.tile(np.arange(_N_PHASES), len(definitions))
    grouped = sums.regrouped(group_of, _N_PHASES)
    known_bytes, known_flops = (
        _known_total(sums.count, np.repeat(each, _N_PHASES), group_of, _N_PHASES)
        for each in (n_bytes, definitions["flops"])
    )
    live = _known_most(sums.count, np.repeat(definitions["live_bytes"], _N_PHASES), group_of, _N_PHASES)
    return _table(trace, names_of(Phase), grouped, known_bytes, known_flops, live, missing="")


def _by_thread(trace: Trace, selection: Selection) -> Table:
    threads = sorted({int(thread) for block in trace.op_blocks() for thread in np.unique(block["thread"])})
    code_of_thread = np.zeros(1 << 16, np.intp)
    code_of_thread[threads] = np.arange(len(threads))
    sums = _summed(trace, selection, len(threads), lambda block, _: code_of_thread[block["thread"]], each_is_main=True)
    unknown = np.full(len(threads), np.nan)
    return _table(trace, np.array(threads, np.uint16), sums, unknown, unknown, unknown, missing=None)


def _table(trace: Trace, keys: Array, sums: Sums, n_bytes: Array, flops: Array, live: Array, *, missing: Any) -> Table:
    total_ns = float(sums.wall_ns.sum())
    seen = (sums.count > 0) | (sums.disturbed > 0) | (sums.compute_ns != 0) | (sums.wait_ns != 0)
    shown = np.flatnonzero(seen)
    shown = shown[np.argsort(-sums.wall_ns[shown], kind="stable")]
    share = sums.wall_ns / total_ns if total_ns > 0 else np.full(len(keys), np.nan)
    columns = {
        "key": keys,
        "count": sums.count,
        "wall_ns": sums.wall_ns,
        "share": share,
        "compute_ns": sums.compute_ns,
        "wait_ns": sums.wait_ns,
        "bytes": n_bytes,
        "flops": flops,
        "live_bytes": live,
    }
    if disturbed_source(trace) is not None:
        columns["disturbed"] = sums.disturbed
    columns |= sums.counter_columns()
    arrays = {name: values[shown] for name, values in columns.items()}
    for name in ("wall_ns", "compute_ns", "wait_ns"):
        arrays[name] = np.rint(np.clip(arrays[name], -_MAX_NS, _MAX_NS)).astype(np.int64)
    return Table.from_arrays(arrays, {"key": missing})
