"""What the products of one token and of many have in common: their tensors, and what is added to the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from melt_core.models.mlc.compiler.tir import argument, flat, load_f32, store_f32
from melt_core.models.mlc.quantization import Quantization


class Product:
    """One product: sizes, weights and the shapes of what goes in and out.

    `y_tail` is the shape of y without the tokens' axis; in the shapes of what is added, "m" stands for that axis.
    """

    def __init__(
        self,
        n: int,
        k: int,
        q: Quantization,
        out_dtype: str,
        y_tail: Sequence[int],
        added: Sequence[Sequence[int | str]],
    ) -> None:
        self.n, self.k, self.q, self.out_dtype = n, k, q, out_dtype
        self.y_tail, self.added = tuple(y_tail), added

    def arguments(self, m: Any) -> tuple[Any, list[Any], list[Any], Any]:
        """Declares all tensors for `m` tokens; returns views of x, of the weights, of what is added, and of y."""
        q = self.q
        weights = (
            [((self.n, q.n_words(self.k)), "uint32"), ((self.n, q.n_groups(self.k)), q.dtype)]
            if q.bits
            else [((self.n, self.k), q.dtype)]
        )
        found = [argument("x", (m, self.k), q.dtype)]
        found += [argument(f"w{i}", shape, dtype) for i, (shape, dtype) in enumerate(weights)]
        found += [
            argument(f"added{i}", [m if axis == "m" else axis for axis in shape], q.dtype)
            for i, shape in enumerate(self.added)
        ]
        found.append(argument("y", (m, *self.y_tail), self.out_dtype))
        x, *rest, y = flat(*found)
        return x, rest[: len(weights)], rest[len(weights) :], y

    def finish(self, y: Any, token: Any, column: Any, value: Any, added: list[Any], lanes: int) -> None:
        """Adds what is to be added to lanes of a token's result and writes them."""
        at = token * self.n + column
        for view, shape in zip(added, self.added, strict=True):
            value = value + load_f32(view, at if "m" in shape else column, lanes)
        store_f32(y, at, value, lanes)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two products the same kernel."""
        return (self.n, self.k, self.out_dtype, self.y_tail, tuple(self.added))
