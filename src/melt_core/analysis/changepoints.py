"""When the mean of a noisy series steps: segmentation at least cost, with a penalty set against false alarms.

PELT: Killick, Fearnhead, Eckley 2012, "Optimal detection of changepoints with a linear computational cost". The cost
of a segment is its sum of squares about its mean; each change must earn `PENALTY` x the series' long-run variance x
log n. The long-run variance is that of means of neighbouring blocks: what is correlated in time is not taken for steps.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: 3 is the BIC's (two means and a place); this is higher, for noise that is not normal. Quiet runs of
#: benchmarks/bench_throttling.py give no false alarm with it.
PENALTY: Final = 5.0
#: Points that a segment has at least.
MIN_SEGMENT: Final = 6
_BLOCK: Final = 8


def noise_variance(values: Array) -> float:
    """Returns the long-run variance of a series, steps in its mean left out: from differences, by their median."""
    found = [_difference_variance(values, 1)]
    for block in (_BLOCK // 2, _BLOCK, 2 * _BLOCK):
        if len(values) >= 8 * block:
            found.append(_difference_variance(values, block))
    return max(found)


def _difference_variance(values: Array, block: int) -> float:
    n = len(values) // block
    if n < 3:
        return 0.0
    means = values[: n * block].reshape(n, block).mean(axis=1)
    spread = 1.4826 * float(np.median(np.abs(np.diff(means)))) / math.sqrt(2)
    return block * spread**2


def running_median(values: Array, width: int) -> Array:
    """Returns the median of the `width` values around each; at the ends of those there are."""
    half = width // 2
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.asarray(np.nanmedian(windows, axis=1))


def without_spikes(values: Array) -> Array:
    """Returns the series with what stands out of its surroundings brought back to their edge: steps stay, spikes go."""
    around = running_median(values, 2 * MIN_SEGMENT - 1)
    edge = 3.0 * 1.4826 * float(np.median(np.abs(values - around)))
    return np.asarray(np.clip(values, around - edge, around + edge))


def change_points(values: Array, *, penalty: float = PENALTY, min_segment: int = MIN_SEGMENT) -> list[int]:
    """Returns the positions at which a new mean begins, in order; none for a series without steps."""
    n = len(values)
    if n < 2 * min_segment:
        return []
    variance = noise_variance(values)
    if variance <= 0:
        variance = 1e-12 * max(float(np.mean(values**2)), 1e-300)
    price = penalty * variance * math.log(n)
    return _segmented(values, price, min_segment)


def _segmented(values: Array, price: float, min_segment: int) -> list[int]:
    n = len(values)
    sums = np.append(0.0, np.cumsum(values - values.mean()))
    squares = np.append(0.0, np.cumsum((values - values.mean()) ** 2))
    best = np.full(n + 1, np.inf)
    best[0] = -price
    last = np.zeros(n + 1, np.intp)
    candidates = np.array([0], np.intp)
    for end in range(min_segment, n + 1):
        length = end - candidates
        cost = squares[end] - squares[candidates] - (sums[end] - sums[candidates]) ** 2 / length
        total = best[candidates] + cost
        at = int(np.argmin(total))
        best[end], last[end] = total[at] + price, candidates[at]
        kept = candidates[total <= best[end]]  # one that is worse now can never become the best
        candidates = np.append(kept, end - min_segment + 1) if end - min_segment + 1 >= min_segment else kept
    found = []
    end = n
    while last[end] > 0:
        end = int(last[end])
        found.append(end)
    return found[::-1]


def merged(values: Array, changes: list[int], *, least_step: float) -> list[int]:
    """Returns the changes without those at which the median moves by less than `least_step`, the smallest first."""
    kept = list(changes)
    while kept:
        bounds = [0, *kept, len(values)]
        means = [float(np.median(values[start:end])) for start, end in pairwise(bounds)]
        steps = np.abs(np.diff(means))
        smallest = int(np.argmin(steps))
        if steps[smallest] >= least_step:
            break
        del kept[smallest]
    return kept


def best_split(values: Array) -> int:
    """Returns where a series is best cut into two of different mean."""
    n = len(values)
    if n < 2:
        return 0
    sums = np.cumsum(values - values.mean())[:-1]
    at = np.arange(1, n)
    return int(np.argmax(sums**2 / (at * (n - at)))) + 1
