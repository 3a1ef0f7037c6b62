"""MLC's group quantisation in NumPy: matrices to words and scales, and back, and how near; see `quantization`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melt_core.models.mlc.quantization import Quantization

_LEAST_FLOAT16 = 2.0**-24


def quantize(weight: NDArray[np.float32], to: Quantization) -> tuple[NDArray[np.uint32], NDArray[np.floating]]:
    """Returns the words [n, n_words] uint32 and scales [n, n_groups] of a matrix [n, k]."""
    n, k = weight.shape
    padded = np.zeros((n, to.n_groups(k) * to.group), np.float32)
    padded[:, :k] = weight.astype(to.dtype)
    groups = padded.reshape(n, -1, to.group)
    scales = (np.abs(groups).max(axis=-1) / to.max_int).astype(to.dtype)
    # A group of zeros has the scale 0, whose reciprocal stands for nothing: its weights become max_int, which is 0.
    divisor = np.where(scales == 0, 1, scales.astype(np.float32))[..., None]
    levels = np.clip(np.rint(groups / divisor + to.max_int), 0, 2 * to.max_int).astype(np.uint32)
    levels = levels.reshape(n, -1, to.per_word)
    words = np.zeros(levels.shape[:2], np.uint32)
    for place in range(to.per_word):
        words |= levels[:, :, place] << np.uint32(place * to.bits)
    return words, scales


def dequantize(
    words: NDArray[np.uint32], scales: NDArray[np.floating], k: int, by: Quantization
) -> NDArray[np.float32]:
    """Returns the matrix [n, k] float32 of words and scales."""
    shifts = (np.arange(by.per_word) * by.bits).astype(np.uint32)
    levels = (words[:, :, None] >> shifts) & np.uint32((1 << by.bits) - 1)
    groups = levels.reshape(len(words), -1, by.group).astype(np.float32) - np.float32(by.max_int)
    values: NDArray[np.float32] = groups * scales.astype(np.float32)[..., None]
    return values.reshape(len(words), -1)[:, :k]


def half_steps(values: NDArray[np.float32], by: Quantization, *, packed: bool) -> NDArray[np.float32]:
    """Returns how far what is written of each value may be from it: half of what lies between two that can be written.

    A number has the step of its type, none in float32; a packed matrix [n, k] that of its group, whose largest value is
    the last level.
    """
    is_half = by.dtype == "float16"
    if not packed:
        steps = np.maximum(np.abs(values), np.float32(2.0**-14)) * np.float32(2.0**-11)
        return steps if is_half else np.zeros_like(steps)
    n, k = values.shape
    padded = np.zeros((n, by.n_groups(k) * by.group), np.float32)
    padded[:, :k] = np.abs(values)
    largest = padded.reshape(n, -1, by.group).max(axis=-1)
    # Weight and scale are rounded too, which counts where they are among the smallest numbers of their type.
    steps = largest / (2 * by.max_int) + np.float32(_LEAST_FLOAT16 * by.max_int if is_half else 0)
    return np.repeat(steps, by.group, axis=1)[:, :k]
