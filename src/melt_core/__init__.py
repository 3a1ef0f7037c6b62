"""Measures what a language model does on this machine: each token, each op, on each thread.

Example:
    >>> import melt_core as melt
    >>> with melt.load("layers=2", runtime="synthetic") as llm:
    ...     with melt.profile(llm) as prof:
    ...         done = prof.run("Hello", max_tokens=4)
    >>> print(prof.trace.key_averages(group_by="op_type"))  # doctest: +SKIP
"""

from __future__ import annotations

from melt_core.errors import (
    BusyError,
    CancelledError,
    InvalidArgumentError,
    MeltError,
    MissingExtraError,
    ModelError,
    OutOfMemoryError,
    RuntimeFailedError,
    StorageError,
    TraceError,
)
from melt_core.profiling import Completion, Profiler, ProfileRequest, ProfileResult, profile, profile_in_child
from melt_core.report import report
from melt_core.runtime import LLM, ModelInfo, load, runtime_names
from melt_core.trace import Table, Trace

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "BusyError",
    "CancelledError",
    "Completion",
    "InvalidArgumentError",
    "MeltError",
    "MissingExtraError",
    "ModelError",
    "ModelInfo",
    "OutOfMemoryError",
    "ProfileRequest",
    "ProfileResult",
    "Profiler",
    "RuntimeFailedError",
    "StorageError",
    "Table",
    "Trace",
    "TraceError",
    "__version__",
    "load",
    "profile",
    "profile_in_child",
    "report",
    "runtime_names",
]
