"""What a GGUF model file says of itself, read without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fsencode

from melt_core.runtime.checks import checked_path
from melt_core.runtime.core import _core


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its shape has the slowest axis first, its type is ggml's name (``q4_1``)."""

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file."""

    path: str
    version: int
    file_bytes: int
    metadata: dict[str, str]
    tensors: tuple[GgufTensor, ...]

    @property
    def n_params(self) -> int:
        """Number of weights in all tensors."""
        total = 0
        for tensor in self.tensors:
            count = 1
            for extent in tensor.shape:
                count *= extent
            total += count
        return total

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)


def read_gguf(path: str | PathLike[str]) -> GgufFile:
    """Reads and checks the header of a GGUF file.

    Raises:
        ModelError: The file is missing, damaged or no GGUF file; the message says what is wrong and where.
        StorageError: The system refused to read it.
    """
    name = checked_path("model", path)
    header = _core.read_gguf(fsencode(name))
    tensors = tuple(GgufTensor(t.name, tuple(t.shape), t.type, t.size_bytes) for t in header.tensors)
    return GgufFile(name, header.version, header.file_bytes, dict(header.metadata), tensors)
