"""Tables: columns, rows, missing values, and what other libraries get."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from fakes.needs import lacking
from fakes.trace_builder import toy_trace
from melt_core.errors import InvalidArgumentError
from melt_core.trace import Table, Trace

OPS_COLUMNS = (
    *("run", "token", "phase", "thread", "start_ns", "compute_ns", "wait_ns", "op", "op_type", "layer", "module"),
    *("backend", "buffer", "dtype", "shape", "n_fused", "bytes_read", "bytes_written", "flops", "live_bytes"),
)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_bytes(toy_trace())


@pytest.fixture
def table() -> Table:
    arrays = {
        "key": np.array(["a", "", "c"], object),
        "n": np.array([1, 2, 3]),
        "x": np.array([1.5, np.nan, 3.0]),
    }
    return Table.from_arrays(arrays, {"key": "", "n": 2})


def test_ops_have_the_documented_columns(trace: Trace) -> None:
    assert trace.ops.columns == OPS_COLUMNS
    first = ("run", "index", "phase", "start_ns", "duration_ns", "token_id", "n_tokens")
    assert trace.tokens.columns[:7] == first


def test_ops_are_joined_with_what_they_refer_to(trace: Trace) -> None:
    # GIVEN the second decode step of run 2: records 1 + 1 + ... of the file, found by their columns
    ops = trace.ops
    step = ops[(ops["run"] == 2) & (ops["token"] == 2) & (ops["op"] == "ffn_up-0")]
    # THEN both threads are there, with the definition's own numbers
    assert [(row.thread, row.compute_ns, row.wait_ns) for row in step] == [(0, 20_000, 1_000), (1, 19_500, 1_500)]
    row = step[0]
    assert (row.phase, row.op_type, row.layer, row.module, row.shape) == ("decode", "MUL_MAT", 0, "ffn", "1x64")
    assert (row.bytes_read, row.bytes_written, row.flops) == (2000.0, 200.0, 8000.0)


def test_host_ops_know_their_phase(trace: Trace) -> None:
    ops = trace.ops
    host = ops[ops["module"] == "host"]
    assert [(row.op, row.phase) for row in host.head(3)] == [
        ("tokenize", "tokenize"),
        ("sample", "prefill"),
        ("sample", "decode"),
    ]


def test_a_host_op_of_no_token_is_placed_by_time() -> None:
    from fakes.trace_builder import TraceBuilder, definitions, rows_of
    from melt_core.trace.format import NONE, ChunkKind, Phase

    builder = TraceBuilder()
    builder.records(ChunkKind.OP_DEFINITIONS, definitions())
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, [{"run": 0}]))
    phase = {"run": 0, "phase": Phase.DECODE, "start_ns": 100, "duration_ns": 50}
    builder.records(ChunkKind.PHASES, rows_of(ChunkKind.PHASES, [phase]))
    ops = [{"op": 6, "graph": NONE, "token": NONE, "start_ns": time_ns} for time_ns in (99, 100, 149, 150)]
    builder.records(ChunkKind.OPS, rows_of(ChunkKind.OPS, ops))
    table = Trace.from_bytes(builder.finish()).ops
    assert [(row.run, row.phase) for row in table] == [(None, None), (0, "decode"), (0, "decode"), (None, None)]


def test_tokens_behind_the_end_are_marked(trace: Trace) -> None:
    last = trace.tokens[-1]
    assert (last.token_id, last.end_of_text, last.cut) == (2, True, False)


def test_rows_by_number_slice_mask_and_list(table: Table) -> None:
    assert table[-1].key == "c"
    assert table[1:]["n"].tolist() == [2, 3]
    assert table[::-1]["key"].tolist() == ["c", "", "a"]
    assert table[table["n"] > 1][np.array([1, 0])]["n"].tolist() == [3, 2]
    assert len(table[5:]) == 0
    assert len(table.head(2)) == 2


def test_missing_values_are_none_in_rows(table: Table) -> None:
    assert table.to_dicts()[1] == {"key": None, "n": None, "x": None}
    assert [row.n for row in table] == [1, None, 3]


def test_wrong_keys_say_what_there_is(table: Table) -> None:
    with pytest.raises(InvalidArgumentError, match="no column 'y': there are key, n, x"):
        table["y"]
    with pytest.raises(IndexError):
        table[3]
    with pytest.raises(IndexError):
        table[np.array([3])]
    with pytest.raises(InvalidArgumentError):
        table[np.array([True])]


def test_text_fits_80_columns(trace: Trace) -> None:
    for table in (trace.ops, trace.runs, trace.op_definitions, trace.key_averages(), trace.ops[:0]):
        assert max(map(len, repr(table).splitlines())) <= 80
    assert "127 more of 147 rows" in repr(trace.ops)
    assert "(no rows)" in repr(trace.ops[:0])


def test_control_characters_do_not_reach_the_terminal() -> None:
    table = Table.from_arrays({"key": np.array(["a\x1b[31mb\nc"], object)})
    assert repr(table) == "key\na?[31mb?c"


def test_arrow_keeps_values_and_nulls(trace: Trace) -> None:
    if find_spec("pyarrow") is None:
        lacking("pyarrow is not installed: pip install 'melt_core[store]'")
    arrow = trace.ops[3:20].to_arrow()
    assert arrow.num_rows == 17
    rows = [{name: row[name] for name in ("op", "layer", "phase", "start_ns")} for row in arrow.to_pylist()]
    expected = [
        {name: row[name] for name in ("op", "layer", "phase", "start_ns")} for row in trace.ops[3:20].to_dicts()
    ]
    assert rows == expected
    assert trace.graphs.to_arrow()["aborted"].to_pylist() == [False] * 13


def test_pandas_keeps_values_and_nulls(trace: Trace) -> None:
    if find_spec("pandas") is None:
        lacking("pandas is not installed: pip install 'melt_core[store]'")
    pandas = import_module("pandas")
    frame = trace.ops.to_pandas()
    assert frame["op"].tolist() == trace.ops["op"].tolist()
    assert frame["layer"].isna().sum() == (trace.ops["layer"] == -1).sum()
    assert isinstance(frame["op"].dtype, pandas.CategoricalDtype)
