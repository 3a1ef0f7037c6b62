"""What an MLC model directory says of itself; the runtime checks it in full when it loads one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melt_core.errors import ModelError, StorageError
from melt_core.models.mlc.files import CACHE_NAMES, CONFIG_NAME

_LIBRARIES = ("*.so", "*.dylib", "*.tar")


@dataclass(frozen=True)
class MlcDirectory:
    """One model directory."""

    path: str
    model_type: str
    quantization: str
    context_window_size: int
    n_tensors: int
    weights_bytes: int
    libraries: tuple[str, ...]


def describe(folder: Path) -> MlcDirectory:
    """Reads the configuration and the list of parameters.

    Raises:
        ModelError: A file is missing or damaged.
        StorageError: The system refused to read one.
    """
    cache = next((folder / name for name in CACHE_NAMES if (folder / name).exists()), folder / CACHE_NAMES[0])
    values, shards = _read_json(folder / CONFIG_NAME), _read_json(cache)
    try:
        return MlcDirectory(
            path=str(folder),
            model_type=str(values["model_type"]),
            quantization=str(values["quantization"]),
            context_window_size=int(values["context_window_size"]),
            n_tensors=sum(len(shard["records"]) for shard in shards["records"]),
            weights_bytes=sum(int(shard["nbytes"]) for shard in shards["records"]),
            libraries=tuple(sorted(path.name for pattern in _LIBRARIES for path in folder.glob(pattern))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is no whole MLC model directory: {error!r}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist: name a GGUF file, or a whole MLC model directory") from error
    except OSError as error:
        raise StorageError.from_os_error("read", str(path), error) from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
