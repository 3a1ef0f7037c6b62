"""Predicts what a model would hold in memory, and whether that fits this device, without loading it.

Data path: header of the model file -> llama.cpp's dry run in a child process -> `MemoryPrediction`.

Example:
    >>> from melt_core.profiling.fit import MemoryOptions, predict_memory
    >>> prediction = predict_memory("model.gguf", MemoryOptions(n_ctx=4096))  # doctest: +SKIP
    >>> prediction.total_bytes, prediction.fits  # doctest: +SKIP
    (189500000, True)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from melt_core.profiling.child import ask
from melt_core.runtime.checks import checked_path
from melt_core.runtime.memory import DeviceMemory, MemoryForecast, MemoryPart, device_memory

WORKER = "melt_core.profiling.fit_worker"
#: A dry run takes a quarter of a second for a vocabulary of 50,000 tokens.
PREDICT_TIMEOUT_S = 120.0
#: Order of the rows; `process` is all of the process that is no buffer of the runtime.
CATEGORIES = ("weights", "repack", "kv", "compute", "output", "process")


@dataclass(frozen=True)
class MemoryOptions:
    """What a session's memory depends on; see `melt_core.load` for the meanings."""

    runtime: str = "llama.cpp"
    n_ctx: int = 2048
    n_batch: int = 2048
    n_ubatch: int = 512
    use_mmap: bool = True
    repack: bool = True
    kv_type: str = "f16"


@dataclass(frozen=True)
class MemoryPrediction:
    """What a session would hold, and what this device has for it.

    Attributes:
        options: What was asked for.
        forecast: The runtime's buffers, to the byte, and the size of the process around them.
        device: This device's memory, or that of the cgroup that limits us.
    """

    options: MemoryOptions
    forecast: MemoryForecast
    device: DeviceMemory

    @property
    def bytes_by_category(self) -> dict[str, int | None]:
        """Bytes of each of `CATEGORIES`; `process` is None where the system does not say."""
        sizes: dict[str, int | None] = {name: part_bytes(self.forecast.parts, name) for name in CATEGORIES[:-1]}
        return sizes | {"process": self.forecast.process_resident_bytes}

    @property
    def total_bytes(self) -> int:
        """Sum over the categories that are known."""
        return sum(size for size in self.bytes_by_category.values() if size is not None)

    @property
    def reserved_bytes(self) -> int:
        """The same with all private memory that the process reserves, touched or not: what a limit must allow."""
        buffers = sum(part.bytes for part in self.forecast.parts)
        return buffers + (self.forecast.process_reserved_bytes or 0)

    @property
    def fits(self) -> bool | None:
        """Whether the total is available now; None where the system does not say what is."""
        available = self.device.available_bytes
        return None if available is None else self.total_bytes <= available

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON values."""
        categories = [{"category": name, "bytes": size} for name, size in self.bytes_by_category.items()]
        return {
            "options": asdict(self.options),
            "n_ctx": self.forecast.n_ctx,
            "categories": categories,
            "buffers": [asdict(part) for part in self.forecast.parts],
            "total_bytes": self.total_bytes,
            "reserved_bytes": self.reserved_bytes,
            "device": asdict(self.device),
            "fits": self.fits,
        }


def part_bytes(parts: tuple[MemoryPart, ...], category: str) -> int:
    """Returns the bytes of one category."""
    return sum(part.bytes for part in parts if part.category == category)


def predict_memory(
    model: str | PathLike[str], options: MemoryOptions | None = None, *, device: DeviceMemory | None = None
) -> MemoryPrediction:
    """Predicts what a model file would hold in memory; no weight is read.

    Args:
        model: A GGUF file, or a model directory for the MLC runtime.
        options: Runtime, context, batch and so on.
        device: What it is held against; by default this device as it is now.

    Raises:
        ModelError: The file is missing, damaged, not supported, or has no weights.
        OutOfMemoryError: Even the bookkeeping of such a context does not fit: 50 bytes a token.
        InvalidArgumentError: An option is out of range.
        RuntimeFailedError: The child process died, as on a damaged file that the runtime aborts on.
    """
    chosen = options or MemoryOptions()
    question = {"action": "predict", "model": checked_path("model", model), "options": asdict(chosen)}
    answer = ask(WORKER, json.dumps(question), timeout_s=PREDICT_TIMEOUT_S)
    parts = tuple(MemoryPart(**part) for part in answer.pop("parts"))
    return MemoryPrediction(chosen, MemoryForecast(parts, **answer), device or device_memory())
