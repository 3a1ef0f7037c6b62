"""How near each op came to what the machine can do: the roofline model, from a trace and measured ceilings.

S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009. An op that moves B bytes and does F FLOPs takes at
least max(B / bandwidth, F / arithmetic rate). The greater of the two binds; it divided by the time taken is the share
of the nearest ceiling. What the figures mean and where they mislead: docs/roofline.md.

    found = roofline(trace, ceilings, by="op_type", phase="decode")
    found.bandwidth_share          # of the phase's op time, in ops left of their ridge
    mbu_of(trace, ceilings).ratio
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.ceiling_checks import MAX_CEILING_RATIO, why_over
from melt_core.analysis.group import Selection, bytes_moved, per_definition
from melt_core.analysis.streamed import (
    ATTENTION,
    Attended,
    StreamedBytes,
    attended_in_decode,
    first_op_types,
    streamed_bytes,
)
from melt_core.analysis.summary import measured_runs
from melt_core.errors import InvalidArgumentError
from melt_core.trace.format import ChunkKind, Phase
from melt_core.trace.metadata import text
from melt_core.trace.tables import decode_text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

BY = ("op_type", "name", "module")
PHASES = ("prefill", "decode")
#: A warning names rows that are among so many of the longest, unless it is told how many are shown.
_NAMED_ROWS = 8

_FIELD_OF_KEY = {"op_type": "op_type", "name": "op", "module": "module"}
_PRODUCTS = ("MUL_MAT", "MUL_MAT_ID")
_QUANTIZED = ("q", "iq", "tq", "mxfp", "nvfp")


class Ceilings(Protocol):
    """What the machine can do at best, as measured."""

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the instruction families: what is multiplied, then the instructions ("int8_avx2", "f32_neon")."""
        ...

    def read_bandwidth(self, n_threads: int, working_set_bytes: float) -> float | None:
        """Returns the streaming read bandwidth in B/s over a working set of all threads together; None: not known."""
        ...

    def flops(self, n_threads: int, family: str) -> float | None:
        """Returns the peak rate of a family in FLOP/s, multiply and add counted as two; None: not known."""
        ...

    def describe(self) -> str:
        """Returns in one line which machine they are of, and when they were measured."""
        ...

    def doubts(self) -> tuple[str, ...]:
        """Returns one line for each reason to distrust them."""
        ...


@dataclass(frozen=True)
class RooflineRow:
    """One key: an op type, an op or a module. Rates are over the time of the ops whose formula is known.

    Attributes:
        share: Part of the phase's op time on the main thread.
        bound: "bandwidth" or "compute", whichever ceiling holds more of the time; None without a formula or ceiling.
        ceiling_ratio: Least time that the ceilings allow / time taken.
        ceiling_bytes_per_s: What the bandwidth ceilings of its ops come to together, at their working sets.
        ceiling_flop_per_s: What the arithmetic ceilings of its ops come to together.
        working_set_bytes: The one behind most of its time.
        family: The instruction family behind most of its time.
        unknown_ratio: Part of wall_ns in ops without a formula.
        reason: Why there is no intensity, bound or share of a ceiling; None if there is.
        warning: Why it reports more than its ceiling; None if it does not.
    """

    key: str
    count: int
    wall_ns: float
    share: float
    bytes: float | None
    flops: float | None
    bytes_per_s: float | None
    flop_per_s: float | None
    intensity_flop_per_byte: float | None
    bound: str | None
    ceiling_ratio: float | None
    ceiling_bytes_per_s: float | None
    ceiling_flop_per_s: float | None
    working_set_bytes: float | None
    family: str | None
    unknown_ratio: float
    reason: str | None
    warning: str | None


@dataclass(frozen=True)
class Roofline:
    """The ops of one phase against their ceilings. Shares are of the main thread's op time in that phase.

    Attributes:
        bandwidth_share: In ops whose intensity lies left of the ridge of their ceilings.
        compute_share: In ops right of it.
        unknown_share: In ops without a formula, without a ceiling, or that move nothing.
        ceiling_ratio: Least time that the ceilings allow / time taken, over the ops that have both.
        no_formula: Op types without a formula: listed, never guessed.
        bandwidths: (working set in bytes, B/s) of the bandwidth ceilings used, those of most time first.
        rates: (family, FLOP/s) of the arithmetic ceilings used, those of most time first.
        ceiling_warnings: Why the ceilings are to be distrusted.
    """

    phase: str
    by: str
    n_threads: int
    wall_ns: float
    rows: tuple[RooflineRow, ...]
    bandwidth_share: float
    compute_share: float
    unknown_share: float
    ceiling_ratio: float | None
    no_formula: tuple[str, ...]
    bandwidths: tuple[tuple[float, float], ...]
    rates: tuple[tuple[str, float], ...]
    ceiling_warnings: tuple[str, ...] = field(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why to distrust the ceilings, and the figures of rows that exceed theirs."""
        return (*self.ceiling_warnings, *self.row_warnings())

    def row_warnings(self, n_shown: int | None = _NAMED_ROWS) -> tuple[str, ...]:
        """Returns one line for each reason why rows exceed their ceiling, with how many do.

        Args:
            n_shown: Rows are named where they are among so many of the longest; None: all of them.
        """
        lines = []
        for reason in dict.fromkeys(row.warning for row in self.rows if row.warning):
            over = [at for at, row in enumerate(self.rows) if row.warning == reason]
            named = [self.rows[at].key or "other" for at in over if n_shown is None or at < n_shown]
            names = f" ({', '.join(named)})" if named else ""
            count = "1 row" if len(over) == 1 else f"{len(over)} rows"
            lines.append(f"{self.phase}: {count} of {len(self.rows)}{names} at {reason}")
        return tuple(lines)


@dataclass(frozen=True)
class _Costs:
    """Per op definition: totals over the executions of a phase, and the least time each ceiling allows them."""

    count: Array
    wall_ns: Array
    bytes: Array
    flops: Array
    working_set: Array
    bandwidth: Array
    family: list[str | None]
    rate: Array

    @property
    def bandwidth_ns(self) -> Array:
        return np.asarray(self.bytes / self.bandwidth * 1e9)

    @property
    def compute_ns(self) -> Array:
        return np.asarray(np.where(self.flops == 0, 0.0, self.flops / self.rate * 1e9))

    @property
    def least_ns(self) -> Array:
        """NaN where there is no formula or no ceiling."""
        return np.maximum(self.bandwidth_ns, self.compute_ns)

    @property
    def has_formula(self) -> Array:
        return np.isfinite(self.bytes) & np.isfinite(self.flops)

    @property
    def is_placed(self) -> Array:
        """Whether the op lies somewhere on the intensity axis, with a ceiling above it."""
        return np.isfinite(self.least_ns) & (self.bytes > 0)


def roofline(trace: Trace, ceilings: Ceilings, *, by: str = "op_type", phase: str = "decode") -> Roofline:
    """Returns the ops of one phase of the measured runs against the ceilings.

    Args:
        trace: The trace.
        ceilings: Of the machine that the trace was recorded on.
        by: One of `BY`.
        phase: One of `PHASES`: together they would have one intensity for two workloads.

    Raises:
        InvalidArgumentError: if there is no such grouping or phase.
    """
    if by not in _FIELD_OF_KEY:
        raise InvalidArgumentError(f"no roofline by {by!r}: choose one of {', '.join(BY)}")
    if phase not in PHASES:
        raise InvalidArgumentError(f"no roofline of phase {phase!r}: choose one of {', '.join(PHASES)}")
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    n_threads = _n_threads(trace)
    streamed = streamed_bytes(definitions)
    attended = attended_in_decode(trace, streamed.n_positions) if phase == "decode" else None
    costs = _costs(trace, ceilings, phase, n_threads, streamed, attended)
    total_ns = float(costs.wall_ns.sum()) or float("nan")
    placed, least = costs.is_placed, costs.least_ns
    is_bandwidth = placed & (costs.bandwidth_ns >= costs.compute_ns)
    shares = [float(costs.wall_ns[mask].sum()) / total_ns for mask in (is_bandwidth, placed & ~is_bandwidth, ~placed)]
    placed_ns = float(costs.wall_ns[placed].sum())
    rows = tuple(_rows(definitions, costs, _FIELD_OF_KEY[by], phase))
    no_formula = np.unique(definitions["op_type"][(costs.count > 0) & ~costs.has_formula])
    return Roofline(
        phase=phase,
        by=by,
        n_threads=n_threads,
        wall_ns=float(costs.wall_ns.sum()),
        rows=rows,
        bandwidth_share=shares[0],
        compute_share=shares[1],
        unknown_share=shares[2],
        ceiling_ratio=float(least[placed].sum()) / placed_ns if placed_ns > 0 else None,
        no_formula=tuple(decode_text(no_formula)),
        bandwidths=_used_bandwidths(costs),
        rates=_used_rates(costs),
        ceiling_warnings=(*_machine_warnings(trace, ceilings), *ceilings.doubts()),
    )


def _n_threads(trace: Trace) -> int:
    runs = trace.records(ChunkKind.RUNS)[measured_runs(trace)]
    return max(int(runs["n_threads"].max()), 1) if len(runs) else 1


def _machine_warnings(trace: Trace, ceilings: Ceilings) -> list[str]:
    recorded_on, measured_on = text(trace.metadata, "device", "cpu_model"), ceilings.describe()
    if recorded_on is None or recorded_on in measured_on:
        return []
    return [f"the trace is of {recorded_on}, the ceilings are of: {measured_on}"]


def _costs(
    trace: Trace,
    ceilings: Ceilings,
    phase: str,
    n_threads: int,
    streamed: StreamedBytes,
    attended: Attended | None,
) -> _Costs:
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    sums = per_definition(trace, Selection(phase=int(Phase[phase.upper()])))
    each = bytes_moved(definitions)
    missing = np.zeros(len(definitions)) if attended is None else attended.missing
    n_bytes = sums.count * each - np.where(missing > 0, missing * streamed.cache, 0.0)
    flops = (sums.count - missing) * definitions["flops"]
    # Weights and caches were last read a step ago, other sources just now, by the op that wrote them.
    from_step = np.nan_to_num(streamed.weight) + np.nan_to_num(streamed.cache) > each / 2
    working_set = np.where(from_step, streamed.step, each)
    families = [
        _family(definition, op_type, ceilings, n_threads)
        for definition, op_type in zip(definitions, first_op_types(definitions), strict=True)
    ]
    used = sums.count > 0
    bandwidth_of = lru_cache(maxsize=None)(lambda size: _known(ceilings.read_bandwidth(n_threads, size)))
    rate_of = lru_cache(maxsize=None)(lambda name: _known(ceilings.flops(n_threads, name)))
    bandwidth = [
        bandwidth_of(size) if each_used and size > 0 else np.nan
        for each_used, size in zip(used.tolist(), working_set.tolist(), strict=True)
    ]
    rate = [np.nan if name is None else rate_of(name) for name in families]
    return _Costs(
        sums.count, sums.wall_ns, n_bytes, flops, working_set, np.array(bandwidth), families, np.array(rate, np.float64)
    )


def _known(value: float | None) -> float:
    return float(value) if value is not None and np.isfinite(value) and value > 0 else float("nan")


def _family(definition: Any, op_type: str, ceilings: Ceilings, n_threads: int) -> str | None:
    """Returns the fastest family that ggml could use for the type that this op multiplies; None if there is none.

    Products multiply in the weight's type (quantised ones as int8), attention in K's, all else in f32. AMX takes
    only weights that lie in its own buffer.
    """
    dtype = "f32"
    if op_type in _PRODUCTS:
        dtype = definition["src_dtype"][0].decode("utf-8", "replace")
    elif op_type == ATTENTION:
        dtype = definition["src_dtype"][1].decode("utf-8", "replace")
    multiplied = "int8" if dtype.startswith(_QUANTIZED) else dtype
    with_amx = definition["buffer"] == b"AMX"
    for kind in (multiplied, "f32") if multiplied in ("f16", "bf16") else (multiplied,):
        names = [name for name in ceilings.families if name == kind or name.startswith(kind + "_")]
        names = [name for name in names if with_amx or not name.endswith("_amx")]
        rates = {name: _known(ceilings.flops(n_threads, name)) for name in names}
        known = {name: rate for name, rate in rates.items() if np.isfinite(rate)}
        if known:
            return max(known, key=lambda name: known[name])
    return None


def _rows(definitions: Array, costs: _Costs, field_name: str, phase: str) -> list[RooflineRow]:
    keys, group_of = np.unique(definitions[field_name], return_inverse=True)
    total_ns = float(costs.wall_ns.sum())
    wall_ns = np.bincount(group_of, weights=costs.wall_ns, minlength=len(keys))
    counts = np.bincount(group_of, weights=costs.count, minlength=len(keys))
    names = decode_text(keys)
    return [
        _row(names[at], np.flatnonzero((group_of == at) & (costs.count > 0)), definitions, costs, total_ns, phase)
        for at in np.argsort(-wall_ns, kind="stable").tolist()
        if counts[at] > 0
    ]


def _row(key: str, of_key: Array, definitions: Array, costs: _Costs, total_ns: float, phase: str) -> RooflineRow:
    wall_ns = float(costs.wall_ns[of_key].sum())
    known = of_key[costs.has_formula[of_key]]
    placed = of_key[costs.is_placed[of_key]]
    known_ns, placed_ns = float(costs.wall_ns[known].sum()), float(costs.wall_ns[placed].sum())
    n_bytes, flops = float(costs.bytes[known].sum()), float(costs.flops[known].sum())
    least = costs.least_ns[placed]
    ratio = float(least.sum()) / placed_ns if placed_ns > 0 else None
    is_bandwidth = costs.bandwidth_ns[placed] >= costs.compute_ns[placed]
    bandwidth_ns = float(costs.wall_ns[placed][is_bandwidth].sum())
    bound = ("bandwidth" if bandwidth_ns >= placed_ns / 2 else "compute") if len(placed) else None
    longest = int(placed[np.argmax(costs.wall_ns[placed])]) if len(placed) else None
    over = ratio is not None and ratio > MAX_CEILING_RATIO
    return RooflineRow(
        key=key,
        count=int(costs.count[of_key].sum()),
        wall_ns=wall_ns,
        share=wall_ns / total_ns if total_ns > 0 else float("nan"),
        bytes=n_bytes if len(known) else None,
        flops=flops if len(known) else None,
        bytes_per_s=_rate(n_bytes, known_ns) if len(known) else None,
        flop_per_s=_rate(flops, known_ns) if len(known) else None,
        intensity_flop_per_byte=flops / n_bytes if n_bytes > 0 else None,
        bound=bound,
        ceiling_ratio=ratio,
        ceiling_bytes_per_s=_rate(float(costs.bytes[placed].sum()), float(costs.bandwidth_ns[placed].sum())),
        ceiling_flop_per_s=_rate(float(costs.flops[placed].sum()), float(costs.compute_ns[placed].sum())),
        working_set_bytes=None if longest is None else float(costs.working_set[longest]),
        family=None if longest is None else costs.family[longest],
        unknown_ratio=1 - known_ns / wall_ns if wall_ns > 0 else 0.0,
        reason=None if len(placed) else _why_not_placed(len(known), n_bytes),
        warning=why_over(definitions[longest], phase, bound) if over and longest is not None else None,
    )


def _rate(amount: float, time_ns: float) -> float | None:
    return amount * 1e9 / time_ns if time_ns > 0 and np.isfinite(amount) else None


def _why_not_placed(n_known: int, n_bytes: float) -> str:
    if not n_known:
        return "no formula for this op"
    if n_bytes <= 0:
        return "it reads and writes nothing"
    return "no ceiling was measured for this working set or instruction family at this number of threads"


def _used_bandwidths(costs: _Costs) -> tuple[tuple[float, float], ...]:
    """Returns the bandwidth ceilings used, one for each rate that differs, with the working set of most time."""
    placed = np.flatnonzero(costs.is_placed)
    found: dict[float, tuple[float, float, float]] = {}
    for at in placed[np.argsort(-costs.wall_ns[placed], kind="stable")].tolist():
        rate = float(costs.bandwidth[at])
        size, _, spent = found.get(rate, (float(costs.working_set[at]), rate, 0.0))
        found[rate] = (size, rate, spent + float(costs.wall_ns[at]))
    ranked = sorted(found.values(), key=lambda each: -each[2])
    return tuple((size, rate) for size, rate, _ in ranked)


def _used_rates(costs: _Costs) -> tuple[tuple[str, float], ...]:
    spent: dict[tuple[str, float], float] = {}
    for at in np.flatnonzero(costs.is_placed & (costs.flops > 0)).tolist():
        key = (str(costs.family[at]), float(costs.rate[at]))
        spent[key] = spent.get(key, 0.0) + float(costs.wall_ns[at])
    return tuple(sorted(spent, key=lambda key: -spent[key]))
