"""The header of a GGUF file, with the values of its keys as the package ``gguf`` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melt_core.errors import MissingExtraError, ModelError


class GgufHeader:
    """Keys and tensors of a file. Values are decoded when asked for: vocabularies are long."""

    def __init__(self, path: Path) -> None:
        """Maps the file.

        Raises:
            MissingExtraError: The package ``gguf`` is not installed.
            ModelError: The file is damaged.
        """
        try:
            import gguf
        except ImportError as error:
            raise MissingExtraError("gguf", extra="mlc") from error
        self.path = path
        self.dequantize = gguf.dequantize
        try:
            reader = gguf.GGUFReader(path)
        except Exception as error:  # the package checks little: what a damaged file raises is of any class
            raise ModelError(f"{path} cannot be read as GGUF: {error}") from error
        self._fields = dict(reader.fields)
        self.tensors = list(reader.tensors)

    def key(self, name: str, default: Any = None) -> Any:
        """Returns the value of a key."""
        return self._fields[name].contents() if name in self._fields else default
