"""MLC's group quantisation: what its names mean. `packing` has the arithmetic.

``q4f16_1``: 4 bits a weight, the model computes in float16, weights lie as [n, k] ("_1"). A group of 32 weights of a
row (40 of 3 bits) shares a scale of the model's type; 8 weights (10) lie in a word of 32 bits, the first lowest.
Values are symmetric: (q - max_int) * scale, max_int = 2^(bits-1) - 1 (mlc_llm/quantization/group_quantization.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.errors import InvalidArgumentError


@dataclass(frozen=True)
class Quantization:
    """One of MLC's quantisations. `bits` is 0 where weights stay numbers of the model's type."""

    name: str
    dtype: str
    bits: int = 0
    group: int = 0

    @property
    def per_word(self) -> int:
        """Weights in a word of 32 bits."""
        return 32 // self.bits

    @property
    def max_int(self) -> int:
        """What stands for 0."""
        return (1 << (self.bits - 1)) - 1

    def n_groups(self, k: int) -> int:
        """Groups of a row of `k` weights; the last may be part empty."""
        return -(-k // self.group)

    def n_words(self, k: int) -> int:
        """Words of a row of `k` weights."""
        return self.n_groups(k) * self.group // self.per_word


_ALL = (
    Quantization("q0f32", "float32"),
    Quantization("q0f16", "float16"),
    Quantization("q4f32_1", "float32", 4, 32),
    Quantization("q4f16_1", "float16", 4, 32),
    Quantization("q3f16_1", "float16", 3, 40),
)

#: Names of the quantisations that can be made.
QUANTIZATIONS = tuple(each.name for each in _ALL)


def quantization_of(name: str) -> Quantization:
    """Returns the quantisation with this name.

    Raises:
        InvalidArgumentError: It is none of `QUANTIZATIONS`.
    """
    for each in _ALL:
        if each.name == name:
            return each
    raise InvalidArgumentError(f"there is no quantization {name!r}: choose one of {', '.join(QUANTIZATIONS)}")
