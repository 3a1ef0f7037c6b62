"""Finds out what a source is, and opens it."""

from __future__ import annotations

from pathlib import Path

from melt_core.errors import ModelError, StorageError
from melt_core.models.mlc.gguf_source import GgufSource
from melt_core.models.mlc.source import Source

_GGUF = b"GGUF"


def open_source(path: Path, prefill_chunk_size: int) -> Source:
    """Opens a GGUF file, or a directory with ``config.json`` and safetensors.

    Raises:
        ModelError: It is neither, damaged, or of an architecture that cannot be converted.
        StorageError: The system refused to read it.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist: name a GGUF file, or a directory with config.json and safetensors")
    try:
        if path.is_dir():
            from melt_core.models.mlc.safetensors_source import SafetensorsSource

            return SafetensorsSource(path, prefill_chunk_size)
        with path.open("rb") as stream:
            magic = stream.read(len(_GGUF))
        if magic == _GGUF:
            return GgufSource(path, prefill_chunk_size)
    except OSError as error:
        raise StorageError.from_os_error("read", error.filename or str(path), error) from error
    raise ModelError(f"{path} is no GGUF file; of safetensors, name the directory with config.json")
