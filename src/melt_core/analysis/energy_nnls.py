"""Least squares without negative coefficients, for a few columns; and how well columns can be told apart."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TOLERANCE: Final = 1e-12


def nnls(gram: Array, moments: Array) -> Array:
    """Returns the x >= 0 that minimises |A x - b|, from A'A [k, k] and A'b [k].

    The active set method of Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23, on the normal
    equations; it starts from the unconstrained solution, which mostly is the answer. Columns that cannot be told apart
    share what they have by the smallest norm.
    """
    scale = np.sqrt(np.maximum(np.diag(gram), _TOLERANCE))
    g, m = gram / np.outer(scale, scale), moments / scale
    passive = _solve(g, m, np.ones(len(m), np.bool_)) > 0
    x = np.maximum(_solve(g, m, passive), 0.0)
    for _ in range(10 * len(m)):
        free = _solve(g, m, passive)
        if (free[passive] <= 0).any():  # walk towards it until the first coefficient reaches 0
            falling = passive & (free <= 0)
            step = np.min(x[falling] / np.maximum(x[falling] - free[falling], _TOLERANCE))
            x = x + step * (free - x)
            passive &= x > _TOLERANCE
            x[~passive] = 0.0
            continue
        x = np.where(passive, free, 0.0)
        gradient = m - g @ x
        gradient[passive] = -np.inf
        enters = int(np.argmax(gradient))
        if gradient[enters] <= 1e-10 * max(float(np.abs(m).max()), _TOLERANCE):
            break
        passive[enters] = True
    solved: Array = x / scale
    return solved


def _solve(gram: Array, moments: Array, passive: Array) -> Array:
    x = np.zeros(len(moments))
    if passive.any():
        own = np.ix_(passive, passive)
        x[passive] = np.linalg.lstsq(gram[own], moments[passive], rcond=None)[0]
    return x


def solve_all(grams: Array, moments: Array) -> Array:
    """Returns `nnls` of many systems [n, k, k] and [n, k] at once; most need no active set."""
    ridge = 1e-12 * np.trace(grams, axis1=1, axis2=2)[:, None, None] * np.eye(grams.shape[1])
    found = np.linalg.solve(grams + ridge, moments[..., None])[..., 0]
    for row in np.flatnonzero((found < 0).any(axis=1)).tolist():
        found[row] = nnls(grams[row], moments[row])
    solved: Array = found
    return solved


def condition(gram: Array) -> float:
    """Returns the condition number of the columns behind A'A, each scaled to length 1 (Belsley, Kuh, Welsch 1980)."""
    scale = np.sqrt(np.maximum(np.diag(gram), _TOLERANCE))
    values = np.linalg.eigvalsh(gram / np.outer(scale, scale))
    if values[0] <= _TOLERANCE:
        return float("inf")
    return float(np.sqrt(values[-1] / values[0]))


def variance_inflation(gram: Array) -> Array:
    """Returns for each column by how much its coefficient's variance is greater than if it stood alone."""
    if not np.isfinite(condition(gram)):
        return np.full(len(gram), np.inf)
    inflation: Array = np.diag(gram) * np.diag(np.linalg.inv(gram))
    return inflation
