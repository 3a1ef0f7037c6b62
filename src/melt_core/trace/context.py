"""Which run and phase an op record belongs to.

An op belongs to the step (token) it names. Without one, it belongs to the phase during which it started; and
tokenising is its own phase, even though it serves the step of the first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.columns import FieldColumn, Rows
from melt_core.trace.format import NONE, ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

#: Phase numbers beyond those known here are shown as this one.
UNKNOWN_PHASE: Final = max(Phase) + 1
HOST_OP_TOKENIZE: Final = b"TOKENIZE"


class OpContext:
    """Places op records in runs and phases. Built once per trace from its small tables."""

    def __init__(self, trace: Trace) -> None:
        """Reads the tokens, phases and op definitions of `trace`."""
        tokens = trace.records(ChunkKind.TOKENS)
        phases = trace.records(ChunkKind.PHASES)
        self._n_tokens = len(tokens)
        self._run_of_token = np.append(tokens["run"], np.uint32(NONE))
        self._phase_of_token = np.append(_known(tokens["phase"]), np.uint8(0))
        order = np.argsort(phases["start_ns"], kind="stable")
        self._phase_starts = phases["start_ns"][order]
        self._phase_ends = self._phase_starts + phases["duration_ns"][order]
        self._run_of_phase = phases["run"][order]
        self._phase_of_phase = _known(phases["phase"])[order]
        self._is_tokenize = trace.records(ChunkKind.OP_DEFINITIONS)["op_type"] == HOST_OP_TOKENIZE

    def of(self, *, token: Array, graph: Array, op: Array, start_ns: Array) -> tuple[Array, Array]:
        """Returns the run (NONE where unknown) and the phase number (0 where unknown) of each record."""
        row = np.minimum(token, self._n_tokens)
        run, phase = self._run_of_token[row], self._phase_of_token[row]
        host = np.flatnonzero((graph == NONE) | (token == NONE))
        if len(host):
            tokenize = host[self._is_tokenize[op[host]]]
            phase[tokenize] = Phase.TOKENIZE
            lone = host[token[host] == NONE]
            self._place_by_time(lone, start_ns, run, phase)
        return run, phase

    def _place_by_time(self, rows: Array, start_ns: Array, run: Array, phase: Array) -> None:
        if not len(self._phase_starts) or not len(rows):
            return
        last = np.searchsorted(self._phase_starts, start_ns[rows], side="right") - 1
        inside = (last >= 0) & (start_ns[rows] < self._phase_ends[last])
        rows, last = rows[inside], last[inside]
        run[rows] = self._run_of_phase[last]
        phase[rows] = np.where(phase[rows] == 0, self._phase_of_phase[last], phase[rows])


def _known(phases: Array) -> Array:
    known: Array = np.minimum(phases, UNKNOWN_PHASE).astype(np.uint8)
    return known


@dataclass(frozen=True)
class ContextColumn:
    """Run or phase number of op records, worked out when read."""

    context: OpContext
    parts: Sequence[Array]
    position: int  # 0: run, 1: phase
    missing: Any = None

    def read(self, rows: Rows) -> Array:
        """Returns the run or phase numbers of the given rows."""
        fields = {name: FieldColumn(self.parts, name).read(rows) for name in ("token", "graph", "op", "start_ns")}
        return self.context.of(**fields)[self.position]
