"""MBU, model bandwidth utilisation: how much of the memory's bandwidth decoding uses, by what it cannot help reading.

MBU = (weight bytes + KV bytes touched per token) x decode_tok_s / measured stream-read bandwidth at the same number of
threads. KV bytes are those of the positions that a step attends to, not of the positions its graph was built for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melt_core.analysis.group import Selection, per_definition
from melt_core.analysis.roofline import Ceilings
from melt_core.analysis.stats import Stat
from melt_core.analysis.streamed import ATTENTION, attended_in_decode, first_op_types, streamed_bytes
from melt_core.analysis.summary import measured_runs, run_series
from melt_core.analysis.views import n_steps
from melt_core.trace.format import ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

#: A working set that no cache holds: asks for the bandwidth of memory itself.
BEYOND_ALL_CACHES_BYTES = float(1 << 40)


@dataclass(frozen=True)
class Mbu:
    """MBU of decode and what it is made of; None where missing, with the reason.

    Attributes:
        weight_bytes: Read of weights per token.
        kv_bytes: Of K and V attended to per token, or of recurrent states, read and written.
        bandwidth_bytes_per_s: Streaming read from memory at `n_threads`.
    """

    ratio: float | None
    weight_bytes: float | None
    kv_bytes: float | None
    decode_tok_s: float | None
    bandwidth_bytes_per_s: float | None
    n_threads: int | None
    reason: str | None = None


def mbu_of(trace: Trace, ceilings: Ceilings) -> Mbu:
    """Returns the MBU of the measured runs' decode steps."""
    runs = trace.records(ChunkKind.RUNS)[measured_runs(trace)]
    n_threads = int(runs["n_threads"].max()) if len(runs) else None
    speed = Stat.of(run.decode_tok_s for run in run_series(trace))
    bandwidth = None if n_threads is None else ceilings.read_bandwidth(n_threads, BEYOND_ALL_CACHES_BYTES)
    weight, cache, reason = _bytes_per_token(trace)
    tok_s = None if speed is None else speed.median
    if reason is None and tok_s is None:
        reason = "no run has two output tokens"
    if reason is None and bandwidth is None:
        reason = f"no memory bandwidth was measured with {n_threads} threads"
    ratio = None
    if reason is None and weight is not None and cache is not None and tok_s is not None and bandwidth is not None:
        ratio = (weight + cache) * tok_s / bandwidth
    return Mbu(ratio, weight, cache, tok_s, bandwidth, n_threads, reason)


def _bytes_per_token(trace: Trace) -> tuple[float | None, float | None, str | None]:
    """Returns weight bytes and KV bytes per decode step, or why they are not known."""
    definitions = trace.records(ChunkKind.OP_DEFINITIONS)
    count = per_definition(trace, Selection(phase=int(Phase.DECODE))).count
    steps, used = n_steps(trace, Phase.DECODE), count > 0
    if not steps or not used.any():
        return None, None, "no op of a decode step was recorded: profile with the level ops"
    streamed = streamed_bytes(definitions)
    names = np.array(first_op_types(definitions), object)
    is_cache = used & (streamed.cache != 0)
    untold = used & np.isnan(streamed.weight) & (streamed.cache == 0)  # a scan's parameters are with its state
    if untold.any():
        return None, None, f"the weight bytes of {', '.join(sorted(set(names[untold])))} cannot be told from the rest"
    plain = used & (definitions["module"] == b"attention") & (names == "MUL_MAT") & (definitions["weight"] == b"")
    if plain.any() and not (used & (names == ATTENTION)).any():
        return None, None, "attention ran as plain matrix products: its KV bytes cannot be told from the rest"
    if np.isnan(streamed.cache[is_cache]).any():
        return None, None, "the KV cache has a type of which the block size is not known here"
    if not np.nan_to_num(streamed.weight[used]).any():
        return None, None, "no op of the decode steps names a weight"
    attended = attended_in_decode(trace, streamed.n_positions)
    weight = float((count[used] * np.nan_to_num(streamed.weight[used])).sum()) / steps
    executed = count[is_cache] - attended.missing[is_cache]
    return weight, float((executed * streamed.cache[is_cache]).sum()) / steps, None
