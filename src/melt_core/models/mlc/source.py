"""What a conversion reads: a model's sizes, and its weights by MLC's names, one at a time.

A file format gives the pieces that it knows (`pieces`); this module puts them together as MLC has them: Q, K and V in
one matrix, gate and up in another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.errors import ModelError
from melt_core.models.mlc.config import ModelConfig

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Chat:
    """Tokens that end an answer, and the messages' format where it is one that MLC can spell out."""

    bos: int | None = None
    eos: tuple[int, ...] = ()
    template: dict[str, Any] | None = None


@dataclass(frozen=True)
class Part:
    """Where a parameter of MLC's comes from: tensors of the source, one below the other."""

    tensors: tuple[str, ...]
    #: For each tensor, how many heads its rows are of if they have to be put in MLC's order; 0: they are in it.
    heads: tuple[int, ...] = field(default=())


class Source(ABC):
    """A model file, opened."""

    def __init__(self, path: Path, config: ModelConfig, chat: Chat) -> None:
        self.path, self.config, self.chat = path, config, chat

    @abstractmethod
    def tensor(self, name: str) -> FloatArray:
        """Returns one of the file's tensors in float32, the slowest axis first.

        Raises:
            ModelError: There is no such tensor, or it cannot be read.
        """

    @abstractmethod
    def part_of(self, name: str) -> Part:
        """Returns where one of MLC's parameters comes from."""

    @abstractmethod
    def write_tokenizer(self, folder: Path) -> list[str]:
        """Writes the tokenizer's files and returns their names; none where the source has no tokenizer.

        Raises:
            MissingExtraError: It takes a package that is not installed.
        """

    def adjusted(self, name: str, values: FloatArray) -> FloatArray:
        """Returns a parameter as MLC has it, where that is more than a matter of order."""
        return values

    def parameter(self, name: str) -> FloatArray:
        """Returns one of MLC's parameters, unquantised.

        Raises:
            ModelError: The source lacks a tensor, or one has another shape than its sizes say.
        """
        part = self.part_of(name)
        heads = part.heads or (0,) * len(part.tensors)
        values = [_in_order(self.tensor(each), n) for each, n in zip(part.tensors, heads, strict=True)]
        for each, value in zip(part.tensors, values, strict=True):
            if value.shape[1:] != values[0].shape[1:]:
                raise ModelError(f"{self.path}: the tensor {each} has the shape {_text(value.shape)}")
        joined = values[0] if len(values) == 1 else np.concatenate(values)
        joined = self.adjusted(name, joined)
        wanted = self.shape_of(name)
        if joined.shape != wanted:
            names = " + ".join(part.tensors)
            raise ModelError(
                f"{self.path}: {names} has the shape {_text(joined.shape)}, the model's sizes say {_text(wanted)}"
            )
        return joined

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Returns the shape that a parameter must have."""
        vectors = self.config.vectors()
        return (vectors[name],) if name in vectors else self.config.matrices()[name.removesuffix(".weight")]


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _in_order(values: FloatArray, n_heads: int) -> FloatArray:
    """Puts the rows of a head in the order of MLC and Hugging Face: first halves of all pairs, then second halves."""
    if not n_heads:
        return values
    if len(values) % (2 * n_heads):
        raise ModelError(f"a projection of {len(values)} rows cannot be of {n_heads} heads")
    pairs = values.reshape(n_heads, len(values) // n_heads // 2, 2, *values.shape[1:])
    ordered: FloatArray = pairs.swapaxes(1, 2).reshape(values.shape)
    return ordered
