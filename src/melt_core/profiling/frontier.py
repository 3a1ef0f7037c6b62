"""Finds by trying the largest context, and the largest batch, that run under a memory limit.

Data path: prediction (dry runs) -> first guess -> real loads in child processes under the limit -> `Frontier`.

What is limited is what a child reserves: its private writable memory (RLIMIT_DATA, enforced by the kernel) plus the
mapped part of the model file. A cgroup would not do: mapped pages that another process has read are not charged to it,
and it reclaims them under pressure, so the same size would pass or fail by what the page cache holds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path

from melt_core.errors import InvalidArgumentError, OutOfMemoryError, RuntimeFailedError
from melt_core.profiling.child import ask
from melt_core.profiling.fit import WORKER, MemoryOptions, MemoryPrediction, predict_memory
from melt_core.runtime.gguf import read_gguf
from melt_core.runtime.memory import device_memory

#: llama.cpp rounds a context up to this many tokens.
CONTEXT_STEP = 256
BATCH_STEP = 32
#: The search ends when what runs and what does not are this close.
RESOLUTION = 0.02
#: Of the available memory, by default: the rest of the system keeps running.
DEFAULT_SHARE = 0.8
MAX_ATTEMPTS = 16
MAX_SECONDS = 86400

OnStep = Callable[[str, float], None]


@dataclass(frozen=True)
class Attempt:
    """One real load and run in a child process."""

    size: int
    runs: bool
    reason: str


@dataclass(frozen=True)
class Frontier:
    """The largest size that runs.

    Attributes:
        quantity: ``n_ctx`` or ``n_ubatch``.
        predicted: The largest size by dry runs; 0 if none.
        found: The largest size that ran; 0 if none.
        failed: The smallest size that did not run; None if the largest allowed one ran.
        most: The largest size that was allowed.
        stopped: Why the search ended before its resolution was reached; empty if it did not.
        prediction: What the found size holds by prediction; of the smallest size if none ran.
        attempts: In the order they were made.
    """

    quantity: str
    predicted: int
    found: int
    failed: int | None
    most: int
    stopped: str
    prediction: MemoryPrediction
    attempts: tuple[Attempt, ...]

    @property
    def agreement_ratio(self) -> float | None:
        """Predicted over found; None if nothing ran."""
        return self.predicted / self.found if self.found else None


@dataclass
class Search:
    """Bisection over multiples of a step, for what holds up to some size and not beyond."""

    step: int
    most: int
    found: int = 0
    failed: int | None = None
    exact: bool = False
    tried: dict[int, bool] = field(default_factory=dict)

    def next_size(self, guess: int | None = None) -> int | None:
        """Returns what to try next; None when the edge is known.

        Args:
            guess: Where the edge is expected: it is tried first, then a little beyond or before it.
        """
        margin = self.step if self.exact else max(self.step, int(max(self.found, self.step) * RESOLUTION))
        if self.found >= self.most or (self.failed is not None and self.failed - self.found <= margin):
            return None
        near = max(self.step, int((guess or 0) * 0.05))
        if guess is not None and not self.tried:
            return self._aligned(guess)
        if self.failed is None:
            return self._aligned(self.found + near * len(self.tried) if guess is not None else self.most)
        if self.found == 0 and guess is not None and len(self.tried) == 1:
            return self._aligned(self.failed - near)
        return self._aligned((self.found + self.failed) // 2)

    def note(self, size: int, holds: bool) -> None:
        """Takes down whether a size holds."""
        self.tried[size] = holds
        if holds:
            self.found = max(self.found, size)
        else:
            self.failed = size if self.failed is None else min(self.failed, size)

    def _aligned(self, size: int) -> int:
        """A multiple of the step that is above what holds and below what does not."""
        low = self.found // self.step * self.step + self.step
        high = self.most if self.failed is None else max(self.failed - self.step, low)
        return min(max(size // self.step * self.step, low), max(high, self.step))


def default_limit() -> int:
    """Returns the limit of a search that names none: a share of what is available.

    Raises:
        InvalidArgumentError: The system does not say what is available.
    """
    device = device_memory()
    if device.available_bytes is None:
        raise InvalidArgumentError(f"{device.source}: give --limit-bytes")
    return int(device.available_bytes * DEFAULT_SHARE)


def find_context(
    model: str | PathLike[str],
    options: MemoryOptions,
    *,
    limit_bytes: int,
    most: int | None = None,
    max_seconds: float = 300.0,
    on_step: OnStep | None = None,
) -> Frontier:
    """Returns the largest context that loads and runs within the limit.

    Args:
        model: A GGUF file.
        options: All but the context.
        limit_bytes: What a process may reserve.
        most: The largest context to try; by default the one that the model was trained for.
        max_seconds: No child is started, or left running, after so long.
        on_step: Called with what is being tried and how much of the work is done at most.

    Raises:
        InvalidArgumentError: No Linux, or an argument out of range.
        ModelError: The file is damaged, not supported, or has no weights.
        KeyboardInterrupt: After Ctrl-C; no child is left.
    """
    step = _Stepper(model, limit_bytes, max_seconds, on_step)
    largest = most or _trained_context(model)
    if largest < CONTEXT_STEP:
        raise InvalidArgumentError(f"the largest context is {largest}: give at least {CONTEXT_STEP} tokens")
    return step.search("n_ctx", CONTEXT_STEP, largest, lambda n: replace(options, n_ctx=n))


def find_batch(
    model: str | PathLike[str],
    options: MemoryOptions,
    *,
    limit_bytes: int,
    max_seconds: float = 300.0,
    on_step: OnStep | None = None,
) -> Frontier:
    """Returns the largest batch, evaluated in one graph, that runs within the limit at ``options.n_ctx``; see above."""
    step = _Stepper(model, limit_bytes, max_seconds, on_step)
    if options.n_ctx < BATCH_STEP:
        raise InvalidArgumentError(f"the context is {options.n_ctx}: give at least {BATCH_STEP} tokens")
    return step.search("n_ubatch", BATCH_STEP, options.n_ctx, lambda n: replace(options, n_batch=n, n_ubatch=n))


class _Stepper:
    """Tries sizes of one model under one limit."""

    def __init__(
        self, model: str | PathLike[str], limit_bytes: int, max_seconds: float, on_step: OnStep | None
    ) -> None:
        if sys.platform not in ("linux", "android"):
            raise InvalidArgumentError("the search needs Linux, whose RLIMIT_DATA bounds a child's memory")
        if limit_bytes < 1:
            raise InvalidArgumentError(f"the limit is {limit_bytes} bytes: give at least 1")
        if not 0 < max_seconds <= MAX_SECONDS:  # NaN is not either
            raise InvalidArgumentError(f"max_seconds is {max_seconds}: give more than 0, and at most {MAX_SECONDS}")
        self._model, self._limit = fspath(model), limit_bytes
        self._end = time.monotonic() + max_seconds
        self._on_step = on_step

    def search(self, quantity: str, step: int, most: int, options_for: Callable[[int], MemoryOptions]) -> Frontier:
        """Predicts, then tries, then words what was found."""
        most = most // step * step
        predicted = self._predict(Search(step, most, exact=True), options_for)
        search, attempts, stopped = Search(step, most), list[Attempt](), ""
        with tempfile.TemporaryDirectory(prefix="melt-") as folder:
            while (size := search.next_size(max(predicted, step))) is not None:
                if len(attempts) >= MAX_ATTEMPTS or time.monotonic() >= self._end:
                    stopped = f"stopped after {len(attempts)} attempts: no more time"
                    break
                self._show(f"trying {quantity} {size}", 0.5 + 0.5 * len(attempts) / MAX_ATTEMPTS)
                attempts.append(self._try(size, options_for(size), Path(folder) / "trace.melt"))
                search.note(size, attempts[-1].runs)
        prediction = predict_memory(self._model, options_for(search.found or step))
        return Frontier(quantity, predicted, search.found, search.failed, most, stopped, prediction, tuple(attempts))

    def _predict(self, search: Search, options_for: Callable[[int], MemoryOptions]) -> int:
        while (size := search.next_size()) is not None:
            self._show(f"predicting {size}", min(len(search.tried) / 24, 1) / 2)
            try:
                holds = predict_memory(self._model, options_for(size)).reserved_bytes <= self._limit
            except OutOfMemoryError:
                holds = False
            search.note(size, holds)
        return search.found

    def _try(self, size: int, options: MemoryOptions, trace: Path) -> Attempt:
        question = {
            "action": "attempt",
            "model": self._model,
            "options": vars(options),
            "limit_bytes": self._limit,
            "n_prefill": min(options.n_ubatch, options.n_batch, options.n_ctx - 2),
            "trace": str(trace),
        }
        try:
            ask(WORKER, json.dumps(question), timeout_s=max(self._end - time.monotonic(), 1.0))
        except (OutOfMemoryError, RuntimeFailedError) as error:
            return Attempt(size, False, str(error))
        return Attempt(size, True, "")

    def _show(self, label: str, done: float) -> None:
        if self._on_step is not None:
            self._on_step(label, done)


def _trained_context(model: str | PathLike[str]) -> int:
    metadata = read_gguf(model).metadata
    value = metadata.get(f"{metadata.get('general.architecture', '')}.context_length", "")
    if not value.isdigit():
        raise InvalidArgumentError("the file does not say its context length: give the largest to try")
    return int(value)
