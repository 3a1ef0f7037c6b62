"""`Trace`: one ``.melt`` file, opened.

    trace = Trace.open("run.melt")
    print(trace.summary())
    print(trace.key_averages(group_by="op_type").head(10))
    trace.export("run.json", format="chrome")

Data path: file -> reader (mapped, checked) -> tables -> analysis -> report. Opening needs NumPy only, on any machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.trace import tables
from melt_core.trace.chunks import Buffer
from melt_core.trace.context import OpContext
from melt_core.trace.format import RECORDS, ChunkKind
from melt_core.trace.reader import TraceContents, TraceHeader, read_buffer, read_file
from melt_core.trace.storage import written_atomically
from melt_core.trace.table import Table

if TYPE_CHECKING:
    from melt_core.analysis.summary import Summary

_BLOCK_RECORDS = 1 << 18


class Trace:
    """A recorded trace. Immutable; its tables are read from the mapped file when looked at."""

    def __init__(self, contents: TraceContents, *, path: str | None = None) -> None:
        """Wraps contents that the reader checked; use `open` or `from_bytes`."""
        self._contents = contents
        self._path = path
        self._joined: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Trace:
        """Opens a trace file by mapping it into memory; the file must stay as it is while the trace is in use.

        Raises:
            StorageError: if the file cannot be read.
            TraceError: if it is not a trace, its header is damaged, or it is of a newer format. Damage behind the
                header is no error: the rest is read, and `warnings` says what is missing.
        """
        return cls(read_file(path), path=os.fspath(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> Trace:
        """Opens a trace that lies in memory. Raises: TraceError as `open` does."""
        return cls(read_buffer(bytes(data)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trace's bytes to `path`, whole or not at all.

        Raises:
            StorageError: if the disk is full or the place cannot be written; a file that was there is unchanged.
        """
        with written_atomically(path) as file:
            file.write(self.buffer)

    # What is in it

    @property
    def buffer(self) -> Buffer:
        """The bytes of the file."""
        return self._contents.buffer

    @property
    def path(self) -> str | None:
        """The file it was opened from; None if from memory."""
        return self._path

    @property
    def header(self) -> TraceHeader:
        """Format version, clock and identity."""
        return self._contents.header

    @property
    def metadata(self) -> dict[str, Any]:
        """What ran on what: model, runtime, device, config, clock. Any key may be absent."""
        return self._contents.metadata

    @property
    def damage(self) -> list[str]:
        """What was wrong with the file when it was read; empty for a whole one."""
        return list(self._contents.damage)

    @property
    def warnings(self) -> list[str]:
        """What to know before trusting the numbers: damage of the file, then what the recorder noted."""
        noted = self.metadata.get("warnings", [])
        return self.damage + [str(text) for text in noted]

    @property
    def complete(self) -> bool:
        """Whether the trace was closed in order."""
        return self._contents.complete

    # Tables

    @cached_property
    def runs(self) -> Table:
        """One row per repetition."""
        return tables.runs(self)

    @cached_property
    def phases(self) -> Table:
        """One row per phase: load, tokenize, prefill, decode, unload."""
        return tables.phases(self)

    @cached_property
    def tokens(self) -> Table:
        """One row per evaluation step and the output token it gave."""
        return tables.tokens(self)

    @cached_property
    def graphs(self) -> Table:
        """One row per executed graph."""
        return tables.graphs(self)

    @cached_property
    def ops(self) -> Table:
        """One row per op, or fused group of ops, and thread."""
        return tables.ops(self)

    @cached_property
    def op_definitions(self) -> Table:
        """One row per op of each graph topology: name, type, layer, shapes, bytes, FLOPs."""
        return tables.op_definitions(self)

    @cached_property
    def overhead(self) -> Table:
        """One row per interleaved pair of steps, recorded and not."""
        return tables.overhead(self)

    @cached_property
    def prompts(self) -> Table:
        """One row per prompt token, in order."""
        return tables.prompts(self)

    @cached_property
    def allocations(self) -> Table:
        """One row per buffer of the runtime that comes or goes; level memory."""
        return tables.allocations(self)

    @cached_property
    def samples(self) -> Table:
        """One row per reading of a sensor; level memory."""
        return tables.samples(self)

    @cached_property
    def counters(self) -> Table:
        """One row per counter that the ops table has; level counters."""
        return tables.counters(self)

    @cached_property
    def switches(self) -> Table:
        """One row per time that a computing thread lost its processor; level ops."""
        return tables.switches(self)

    # Records as stored, for analysis

    def chunks(self, kind: ChunkKind) -> tuple[NDArray[Any], ...]:
        """Returns the stored records of one kind, one mapped array per chunk."""
        return self._contents.records[kind]

    def records(self, kind: ChunkKind) -> NDArray[Any]:
        """Returns the stored records of one kind as one array; a copy where the file holds several chunks."""
        parts = self.chunks(kind)
        if len(parts) == 1:
            return parts[0]
        if kind not in self._joined:
            self._joined[kind] = _join(parts, RECORDS[kind])
        return self._joined[kind]

    @cached_property
    def op_context(self) -> OpContext:
        """Places op records in runs and phases."""
        return OpContext(self)

    @cached_property
    def op_sums(self) -> dict[object, Any]:
        """Totals over all op records that analyses have worked out, by what was selected."""
        return {}

    def op_blocks(self) -> Iterator[NDArray[Any]]:
        """Yields the op records in file order, in views small enough for the processor's cache."""
        for part in self.chunks(ChunkKind.OPS):
            for start in range(0, len(part), _BLOCK_RECORDS):
                yield part[start : start + _BLOCK_RECORDS]

    # Analysis and reports

    def summary(self) -> Summary:
        """Returns the key figures: TTFT, tokens/s per phase, peak memory, conservation, overhead."""
        from melt_core.analysis.summary import summarize

        return summarize(self)

    def key_averages(
        self,
        group_by: str = "op_type",
        *,
        phase: str | None = None,
        include_warmup: bool = False,
        exclude_disturbed: bool = False,
    ) -> Table:
        """Returns time, bytes and FLOPs per group, the longest first.

        Args:
            group_by: op_type, layer, module, phase, name, thread, dtype, weight or backend.
            phase: Only this phase: prefill, decode, tokenize.
            include_warmup: Count warm-up runs too.
            exclude_disturbed: Leave out the ops within which a thread lost its processor.

        Raises:
            InvalidArgumentError: if there is no such grouping or phase.
            TraceError: if disturbed ops are to be left out and the trace does not know them.
        """
        from melt_core.analysis.group import key_averages

        return key_averages(
            self,
            group_by=group_by,
            phase=phase,
            include_warmup=include_warmup,
            exclude_disturbed=exclude_disturbed,
        )

    def export(self, path: str | os.PathLike[str], *, format: str, run: int | None = None) -> None:
        """Writes the trace for another tool.

        Args:
            path: The file to write, whole or not at all.
            format: chrome (ui.perfetto.dev), speedscope, csv or parquet.
            run: Only this run; all by default.

        Raises:
            InvalidArgumentError: if there is no such format or run, or `path` is the trace itself.
            StorageError: if the file cannot be written.
            MissingExtraError: if a package for this format is not installed.
        """
        from melt_core.report.export import export

        export(self, path, format=format, run=run)

    def __repr__(self) -> str:
        """Returns what the trace is of, in one line."""
        n_ops = sum(map(len, self.chunks(ChunkKind.OPS)))
        where = self._path or "memory"
        return f"<Trace {where}: {len(self.runs)} runs, {len(self.tokens)} tokens, {n_ops} op records>"


def _join(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    joined = np.empty(sum(map(len, parts)), dtype)
    first = 0
    for part in parts:
        for name in dtype.names or ():
            joined[name][first : first + len(part)] = part[name]
        first += len(part)
    return joined
