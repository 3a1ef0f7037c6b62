"""What a model would hold in memory, found from its file's header, and what this device has.

Data path: model file -> the runtime's dry run in the core -> `MemoryForecast` -> melt_core.profiling.fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fsencode
from pathlib import Path
from typing import TYPE_CHECKING

from melt_core.errors import InvalidArgumentError
from melt_core.runtime.checks import checked_flag, checked_number, checked_path, checked_word
from melt_core.runtime.core import _core
from melt_core.runtime.mlc import tvm_folders

if TYPE_CHECKING:
    from melt_core._core import MemoryPart as CorePart

_UNKNOWN = 2**64 - 1


@dataclass(frozen=True)
class MemoryPart:
    """What a session holds of one kind in one kind of buffer.

    Attributes:
        category: ``weights``, ``repack``, ``kv`` (with recurrent state), ``compute`` or ``output``.
        buffer: The runtime's name of the buffer type, such as ``CPU_Mapped``.
    """

    category: str
    buffer: str
    bytes: int


@dataclass(frozen=True)
class MemoryForecast:
    """What a session would hold.

    Attributes:
        parts: The runtime's buffers.
        n_ctx: Context length in tokens as the runtime rounds it.
        process_resident_bytes: Of the process without `parts`, with the model's vocabulary and the bookkeeping of its
            cache; None where the system does not say.
        process_reserved_bytes: Private writable memory of the same, touched or not, as RLIMIT_DATA counts it.
    """

    parts: tuple[MemoryPart, ...]
    n_ctx: int
    process_resident_bytes: int | None
    process_reserved_bytes: int | None


@dataclass(frozen=True)
class DeviceMemory:
    """Memory that this process may use; a cgroup's limit counts as the device's memory.

    Attributes:
        total_bytes: None where the system does not say.
        available_bytes: None where the system does not say.
        source: The file that decided, or why there is none.
    """

    total_bytes: int | None
    available_bytes: int | None
    source: str


def parts_of(parts: Sequence[CorePart]) -> tuple[MemoryPart, ...]:
    """Returns the core's records as ours."""
    return tuple(MemoryPart(part.category, part.buffer, part.bytes) for part in parts)


def forecast_here(
    model: str | PathLike[str],
    *,
    runtime: str = "llama.cpp",
    n_ctx: int = 2048,
    n_batch: int = 2048,
    n_ubatch: int = 512,
    use_mmap: bool = True,
    repack: bool = True,
    kv_type: str = "f16",
) -> MemoryForecast:
    """Returns what loading a model file would hold, from a dry run in this process; see `load` for the arguments.

    A runtime may abort the process on a damaged file: `melt_core.profiling.fit.predict_memory` uses a child process.

    Raises:
        ModelError: The file is missing, damaged, not supported, or has no weights.
        OutOfMemoryError: Even the bookkeeping of such a context does not fit.
        InvalidArgumentError: An argument is out of range.
    """
    for name, value, low in (("n_ctx", n_ctx, 0), ("n_batch", n_batch, 1), ("n_ubatch", n_ubatch, 1)):
        checked_number(name, value, low=low)
    path = checked_path("model", model)
    if checked_word("runtime", runtime) not in _core.runtime_names():
        raise InvalidArgumentError(f"this build has no {runtime} runtime, which makes the prediction")
    found = _core.predict_memory(
        runtime,
        fsencode(path),
        runtime_path=tvm_folders() if runtime == "mlc" else "",
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        use_mmap=checked_flag("use_mmap", use_mmap),
        repack=checked_flag("repack", repack),
        kv_type=checked_word("kv_type", kv_type),
    )
    return MemoryForecast(
        parts_of(found.parts),
        found.n_ctx,
        _known(found.process_resident_bytes),
        _known(found.process_reserved_bytes),
    )


def device_memory(root: Path | None = None) -> DeviceMemory:
    """Returns the memory of this device, or of the cgroup that limits this process.

    Args:
        root: Where /proc and /sys lie, for tests.
    """
    found = _core.device_memory("" if root is None else str(root))
    total, available = (None if n == _UNKNOWN else n for n in (found.total_bytes, found.available_bytes))
    return DeviceMemory(total, available, found.source)


def _known(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None
