"""Inference runtimes behind one interface; the only part of the package that touches the compiled core."""

from __future__ import annotations

from melt_core.runtime.machine import build_info, device_info, runtime_details, runtime_names
from melt_core.runtime.session import LLM, ModelInfo, load

__all__ = [
    "LLM",
    "ModelInfo",
    "build_info",
    "device_info",
    "load",
    "runtime_details",
    "runtime_names",
]
