"""All op records with everything known about them, in pieces: for exports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from melt_core.trace.table import Table
    from melt_core.trace.trace import Trace

BLOCK_ROWS = 1 << 16


def op_tables(trace: Trace, *, run: int | None = None) -> Iterator[Table]:
    """Yields the ops table in pieces; only the rows of one run if asked."""
    ops = trace.ops
    for start in range(0, len(ops), BLOCK_ROWS):
        block = ops[start : start + BLOCK_ROWS]
        if run is not None:
            rows = np.flatnonzero(block["run"] == run)
            if not len(rows):
                continue
            block = block if len(rows) == len(block) else block[rows]
        yield block
