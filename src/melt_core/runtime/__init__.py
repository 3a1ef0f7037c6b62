"""Inference runtimes behind one interface; the only part of the package that touches the compiled core."""

from __future__ import annotations

from melt_core.runtime.machine import (
    SensorStatus,
    build_info,
    device_info,
    runtime_details,
    runtime_names,
    sensor_names,
    sensors,
)
from melt_core.runtime.session import LLM, ModelInfo, load
from melt_core.runtime.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "LLM",
    "ModelInfo",
    "SensorStatus",
    "Tokenizer",
    "build_info",
    "device_info",
    "load",
    "load_tokenizer",
    "runtime_details",
    "runtime_names",
    "sensor_names",
    "sensors",
]
