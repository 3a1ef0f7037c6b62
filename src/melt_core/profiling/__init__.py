"""The measured procedure from Python: in this process (`profile`) or in a child (`profile_in_child`)."""

from __future__ import annotations

from melt_core.profiling.fit import MemoryOptions, MemoryPrediction, predict_memory
from melt_core.profiling.isolated import ProfileResult, profile_in_child
from melt_core.profiling.profiler import Completion, Profiler, profile
from melt_core.profiling.request import ProfileRequest

__all__ = [
    "Completion",
    "MemoryOptions",
    "MemoryPrediction",
    "ProfileRequest",
    "ProfileResult",
    "Profiler",
    "predict_memory",
    "profile",
    "profile_in_child",
]
