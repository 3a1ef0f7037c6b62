"""What else an op record holds: the counters of level `counters`, and marks of ops that were disturbed.

A CounterRecord says where in each op record of the file its value lies, behind the fields that every op record has. So
a file without that level has short records, and a reader that knows nothing of counters steps over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import OP, ChunkKind
from melt_core.trace.metadata import text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Records = NDArray[Any]

#: More than these are no counters but an attempt to fill memory.
MAX_COUNTERS: Final = 16


class CounterKind(IntEnum):
    """Who counts."""

    HARDWARE = 1
    SOFTWARE = 2


def offsets_of(definitions: Iterable[Records]) -> tuple[dict[str, int], list[str]]:
    """Returns name -> byte offset in the op record for each sound definition, and what was wrong with the others."""
    offsets: dict[str, int] = {}
    wrong = []
    for row in (row for part in definitions for row in part):
        name, offset = row["name"].decode("utf-8", "replace"), int(row["offset"])
        taken = any(abs(offset - other) < 8 for other in offsets.values())
        if not name.isidentifier() or name in offsets or name in (OP.names or ()) or offset < OP.itemsize or taken:
            wrong.append(f"counter {name!r} at byte {offset} of the op records cannot be, and was left out")
        elif len(offsets) == MAX_COUNTERS:
            wrong.append(f"counter {name!r} was left out: {MAX_COUNTERS} are read")
        else:
            offsets[name] = offset
    return offsets, wrong[:MAX_COUNTERS]


def op_dtype(offsets: Mapping[str, int], record_bytes: int) -> np.dtype[Any]:
    """Returns the dtype of op records of a size, with those counters that lie in it."""
    inside = {name: at for name, at in offsets.items() if at + 8 <= record_bytes}
    if not inside:
        return OP
    fields: Mapping[str, Any] = OP.fields or {}
    return np.dtype(
        {
            "names": [*fields, *inside],
            "formats": [*(part[0] for part in fields.values()), *("<f8" for _ in inside)],
            "offsets": [*(part[1] for part in fields.values()), *inside.values()],
            "itemsize": record_bytes,
        }
    )


def with_all_counters(records: Records, offsets: Mapping[str, int]) -> Records:
    """Returns op records that have every counter: NaN where the stored ones lack it, the array itself if none does."""
    stored = records.dtype.names or ()
    if all(name in stored for name in offsets):
        return records
    filled = np.empty(len(records), [(name, OP[name]) for name in OP.names or ()] + [(name, "<f8") for name in offsets])
    for name in filled.dtype.names or ():
        filled[name] = records[name] if name in stored else np.nan
    return filled


def counter_names(trace: Trace) -> tuple[str, ...]:
    """Returns the counters that the op records of this trace have, in the order of its definitions."""
    return tuple(offsets_of(trace.chunks(ChunkKind.COUNTERS))[0])


def disturbed_source(trace: Trace) -> str | None:
    """Returns what told which ops were disturbed; None if nothing did, and then no op is known to be undisturbed."""
    return text(trace.metadata, "disturbed", "source")


def disturbed_reason(trace: Trace) -> str:
    """Returns why it is not known which ops were disturbed."""
    return (
        text(trace.metadata, "disturbed", "reason") or "the trace does not say: it was recorded before this was noted"
    )
