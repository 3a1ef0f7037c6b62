"""The trace format is written down twice, in C++ and in Python: both must say the same."""

from __future__ import annotations

import pytest

from melt_core.runtime.core import _core
from melt_core.trace.format import RECORDS, ChunkKind

LAYOUTS = _core.record_layouts()


def test_each_kind_of_record_is_compared() -> None:
    assert set(LAYOUTS) == {ChunkKind(kind).name.lower() for kind in RECORDS}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_records_lie_in_python_as_they_do_in_cpp(name: str) -> None:
    size, fields = LAYOUTS[name]
    dtype = RECORDS[ChunkKind[name.upper()]]
    assert dtype.itemsize == size
    for field, offset, n_bytes in fields:
        kind, at = dtype.fields[field][:2]
        assert (at, kind.itemsize) == (offset, n_bytes), field
    # What C++ does not list is padding.
    assert set(dtype.names or ()) - {field for field, *_ in fields} <= {"reserved", "reserved1"}
