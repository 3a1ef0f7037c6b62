"""Statistics of repeated measurements: median, IQR and n together, and a seeded interval for a median of ratios."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BOOTSTRAP_DRAWS = 10_000
#: Below this, an interval would promise more than the samples hold.
MIN_PAIRS = 5


@dataclass(frozen=True)
class Stat:
    """A figure over repetitions: never a lone mean."""

    median: float
    iqr: float
    n: int
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Stat | None:
        """Returns the statistic of the finite `values`; None if there are none."""
        finite = np.array([value for value in values if np.isfinite(value)], np.float64)
        if not len(finite):
            return None
        low, median, high = np.percentile(finite, [25, 50, 75])
        return cls(float(median), float(high - low), len(finite), tuple(finite.tolist()))

    @property
    def spread_ratio(self) -> float:
        """IQR / median."""
        return self.iqr / abs(self.median) if self.median else 0.0


def median_interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float] | None:
    """Returns the bootstrap 95 % interval of the median; None for fewer than five values.

    Resampling n values with replacement and taking the median picks order statistics whose ranks follow those of n
    uniform numbers. So the ranks are drawn from that (Beta) distribution directly: the same bootstrap, in time and
    memory that do not grow with n.
    """
    n = len(values)
    if n < MIN_PAIRS:
        return None
    ordered = np.sort(values)
    random = np.random.default_rng(seed)
    lower_rank = (n + 1) // 2
    lower = random.beta(lower_rank, n - lower_rank + 1, _BOOTSTRAP_DRAWS)
    medians = ordered[_rows(lower, n)]
    if n % 2 == 0:  # the median is the mean of two neighbours: the next uniform order statistic, given the lower one
        rest = random.random(_BOOTSTRAP_DRAWS) ** (1.0 / (n - lower_rank))
        upper = 1.0 - (1.0 - lower) * rest
        medians = (medians + ordered[_rows(upper, n)]) / 2
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _rows(ranks: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    return np.minimum((ranks * n).astype(np.intp), n - 1)
