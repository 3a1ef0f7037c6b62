"""Measures what a language model does on this machine: each token, each op, on each thread.

Example:
    >>> import melt_core as melt
    >>> with melt.load("layers=2", runtime="synthetic") as llm:
    ...     with melt.profile(llm) as prof:
    ...         done = prof.run("Hello", max_tokens=4)
    >>> len(prof.trace.key_averages(group_by="op_type")) > 0
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from melt_core.report import report  # not on first use: its package of the same name would take its place

if TYPE_CHECKING:  # for type checkers and editors; at run time __getattr__ below imports what is asked for
    from melt_core.devices import Device as Device
    from melt_core.devices import GateLimits as GateLimits
    from melt_core.devices import connect as connect
    from melt_core.errors import BusyError as BusyError
    from melt_core.errors import CancelledError as CancelledError
    from melt_core.errors import DeviceBusyError as DeviceBusyError
    from melt_core.errors import DeviceError as DeviceError
    from melt_core.errors import InvalidArgumentError as InvalidArgumentError
    from melt_core.errors import MeltError as MeltError
    from melt_core.errors import MissingExtraError as MissingExtraError
    from melt_core.errors import ModelError as ModelError
    from melt_core.errors import OutOfMemoryError as OutOfMemoryError
    from melt_core.errors import RuntimeFailedError as RuntimeFailedError
    from melt_core.errors import StorageError as StorageError
    from melt_core.errors import TelemetryError as TelemetryError
    from melt_core.errors import TraceError as TraceError
    from melt_core.errors import TransientDeviceError as TransientDeviceError
    from melt_core.profiling import Completion as Completion
    from melt_core.profiling import MemoryOptions as MemoryOptions
    from melt_core.profiling import MemoryPrediction as MemoryPrediction
    from melt_core.profiling import Profiler as Profiler
    from melt_core.profiling import ProfileRequest as ProfileRequest
    from melt_core.profiling import ProfileResult as ProfileResult
    from melt_core.profiling import predict_memory as predict_memory
    from melt_core.profiling import profile as profile
    from melt_core.profiling import profile_in_child as profile_in_child
    from melt_core.profiling.remote import profile_on_device as profile_on_device
    from melt_core.runtime import LLM as LLM
    from melt_core.runtime import ModelInfo as ModelInfo
    from melt_core.runtime import SensorStatus as SensorStatus
    from melt_core.runtime import Tokenizer as Tokenizer
    from melt_core.runtime import load as load
    from melt_core.runtime import load_tokenizer as load_tokenizer
    from melt_core.runtime import runtime_names as runtime_names
    from melt_core.runtime import sensor_names as sensor_names
    from melt_core.runtime import sensors as sensors
    from melt_core.trace import Table as Table
    from melt_core.trace import Trace as Trace

__version__ = "0.1.0"

_PUBLIC = {
    "devices": ("Device", "GateLimits", "connect"),
    "errors": (
        "BusyError",
        "CancelledError",
        "DeviceBusyError",
        "DeviceError",
        "InvalidArgumentError",
        "MeltError",
        "MissingExtraError",
        "ModelError",
        "OutOfMemoryError",
        "RuntimeFailedError",
        "StorageError",
        "TelemetryError",
        "TraceError",
        "TransientDeviceError",
    ),
    "profiling": (
        "Completion",
        "MemoryOptions",
        "MemoryPrediction",
        "ProfileRequest",
        "ProfileResult",
        "Profiler",
        "predict_memory",
        "profile",
        "profile_in_child",
    ),
    "profiling.remote": ("profile_on_device",),  # apart: it imports all of devices
    "runtime": (
        "LLM",
        "ModelInfo",
        "SensorStatus",
        "Tokenizer",
        "load",
        "load_tokenizer",
        "runtime_names",
        "sensor_names",
        "sensors",
    ),
    "trace": ("Table", "Trace"),
}
_MODULE_OF = {name: f"melt_core.{module}" for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", "report", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: opening a trace needs neither the core nor the reports."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'melt_core' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
