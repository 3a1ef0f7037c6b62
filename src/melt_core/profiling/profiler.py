"""Records runs of a loaded model into a trace.

Example:
    >>> import melt_core as melt
    >>> with melt.load("layers=2", runtime="synthetic", n_threads=2) as llm:
    ...     with melt.profile(llm, levels=("tokens", "ops")) as prof:
    ...         done = prof.run("Hello", max_tokens=4, repeats=3)
    >>> len(prof.trace.runs)
    4
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from melt_core.errors import InvalidArgumentError
from melt_core.runtime.checks import (
    checked_call,
    checked_flag,
    checked_ids,
    checked_names,
    checked_number,
    checked_path,
    checked_real,
    checked_text,
)
from melt_core.runtime.core import _core
from melt_core.runtime.session import LLM
from melt_core.trace import Trace
from melt_core.trace.storage import check_trace_output

#: What can be recorded; each level includes what it needs of the others.
LEVELS: Mapping[str, int] = _core.levels()

#: Room for the ops of one run, all threads, in memory. Beyond it graphs are dropped, and counted.
DEFAULT_LOG_BYTES = 1 << 28
#: Readings of each sensor per second.
DEFAULT_SENSOR_HZ = 100.0


@dataclass(frozen=True)
class Completion:
    """What a run gave; its times are in the trace.

    Attributes:
        token_ids: Output of the first measured repetition.
        text: The same as text.
        prompt_token_ids: The prompt as it was evaluated.
        cancelled: Whether `LLM.cancel` ended it: the output may then be short, and repetitions are missing.
    """

    token_ids: tuple[int, ...]
    text: str
    prompt_token_ids: tuple[int, ...]
    cancelled: bool = False


class Profiler:
    """Made by `profile`. Leaving its ``with`` block completes the trace."""

    def __init__(
        self,
        llm: LLM,
        *,
        levels: Sequence[str],
        output: str | PathLike[str] | None,
        metadata: Mapping[str, Any] | None,
        log_bytes: int,
        watch_switches: bool,
        sensors: str | Sequence[str],
        sensor_hz: float,
    ) -> None:
        """Use `profile`."""
        self._folder: str | None = None
        options: dict[str, Any] = {
            "levels": level_mask(levels),
            "metadata_json": _metadata_json(metadata or {}),
            "log_bytes": checked_number("log_bytes", log_bytes, high=1 << 40),
            "watch_switches": checked_flag("watch_switches", watch_switches),
            "sensors": sensor_list(sensors),
            "sensor_hz": checked_real("sensor_hz", sensor_hz),
        }
        if output is not None:
            self._path = check_trace_output(checked_path("output", output), inputs=[llm.path])
        else:
            # In a file all the same: a trace can be larger than the memory that the measured model leaves.
            self._folder = tempfile.mkdtemp(prefix="melt-")
            self._path = str(Path(self._folder, "trace.melt"))
        self._trace: Trace | None = None
        try:
            self._core = _core.Profiler(llm._session, os.fsencode(self._path), **options)
        except BaseException:
            self._remove_folder()
            raise

    def run(
        self,
        prompt: str | Sequence[int] | None = None,
        *,
        prompt_tokens: int | None = None,
        chat: bool = False,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int = 0,
        ignore_eos: bool = False,
        forced_ids: Sequence[int] = (),
        keep_logits: bool = False,
        repeats: int = 1,
        warmup: int = 1,
        overhead_budget_s: float = 1.0,
        idle_s: float = 0.0,
        marker: bool = False,
        on_repetition: Callable[[int, int], None] | None = None,
    ) -> Completion:
        """Evaluates the prompt and generates, `warmup` + `repeats` times, with the GIL released.

        Ctrl-C ends it between two ops: KeyboardInterrupt is raised, and what was measured is in the trace.

        Args:
            prompt: Text, tokenised in every repetition as part of what is timed; or token ids, replayed as they are.
            prompt_tokens: Instead of a prompt: so many random token ids, drawn from the seed; implies `ignore_eos`.
            chat: Whether the prompt is a user's message, to be put into the model's chat format first.
            max_tokens: Output tokens of one repetition.
            temperature: 0 is greedy: the token of the highest logit.
            top_k: Tokens that may be drawn, when temperature is above 0.
            top_p: Their probability mass, when temperature is above 0.
            seed: For drawing, and for the order of the overhead measurement.
            ignore_eos: Whether to go on after the end-of-text token, for a fixed number of tokens.
            forced_ids: The output, replayed as it is: what is sampled is thrown away, so that two runtimes evaluate
                the same tokens. It ends the run.
            keep_logits: Whether to evaluate prompt and output once more at the end, not timed, and keep in the metadata
                what comparing logits needs (docs/compare.md).
            repeats: Repetitions that count.
            warmup: Repetitions before those; in the trace, but marked.
            overhead_budget_s: Seconds for measuring what recording ops costs, for prefill and decode each; 0: not.
            idle_s: Seconds to idle before the repetitions and after them, as `sample_idle` does.
            marker: Whether to make pulses of load before all that and after it, as `mark` does.
            on_repetition: Called with (done, total) between repetitions.

        Raises:
            InvalidArgumentError: An argument is out of range, or the prompt does not fit the context.
            ModelError: The model has no chat format that the runtime knows.
            BusyError: The model is running in another thread.
            RuntimeFailedError: The runtime failed; repetitions before it are in the trace.
            StorageError: The trace could not be written; what was written before is readable.
        """
        counts = {"max_tokens": max_tokens, "repeats": repeats, "warmup": warmup, "seed": seed, "top_k": top_k}
        reals = {"temperature": temperature, "top_p": top_p, "overhead_budget_s": overhead_budget_s, "idle_s": idle_s}
        flags = {"ignore_eos": ignore_eos, "keep_logits": keep_logits, "marker": marker}
        with self._checking():
            checked: dict[str, Any] = checked_prompt(prompt, prompt_tokens, chat=chat)
            checked |= {name: checked_number(name, value) for name, value in counts.items()}
            checked |= {name: checked_real(name, value) for name, value in reals.items()}
            checked |= {name: checked_flag(name, value) for name, value in flags.items()}
            checked["forced_ids"] = checked_ids(forced_ids, "forced_ids")
            options = _core.RunOptions(parse_special=True, **checked)
            checked_call("on_repetition", on_repetition)
        result = self._core.run(options, on_repetition)
        return Completion(
            token_ids=tuple(result.output_ids),
            text=result.output_text.decode("utf-8", errors="replace"),
            prompt_token_ids=tuple(result.prompt_ids),
            cancelled=result.cancelled,
        )

    def sample_idle(self, seconds: float) -> None:
        """Reads the sensors for so long while nothing runs: what the device draws at idle, with the model loaded.

        In the trace it is a phase ``idle`` of its own. Returns at once where no sensor is read.

        Raises:
            InvalidArgumentError: More than 600 seconds, or the trace is finished.
            BusyError: The model is running in another thread.
        """
        with self._checking():
            seconds = checked_real("seconds", seconds)
        self._core.sample_idle(seconds)

    def mark(self) -> None:
        """Makes three short pulses of load on all threads, for an external power meter; takes some 5 s.

        In the trace each is a phase ``marker``, and `melt_core.meters` aligns the meter's recording by them: best
        before the runs and after them, and with `sample_idle` in between, which then waits where no sensor is read too.

        Raises:
            InvalidArgumentError: The trace is finished.
            BusyError: The model is running in another thread.
        """
        self._core.mark()

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        """Tells the core of what is refused before it hears of it."""
        try:
            yield
        except InvalidArgumentError:
            self._core.refuse()
            raise

    def finish(self) -> None:
        """Completes the trace. Called on leaving the ``with`` block; calling it twice is harmless.

        Where whatever was asked for was refused before anything was measured, nothing is written: the file stays as it
        was, and there is no `trace`.
        """
        if self._trace is None and self._core.finish():
            self._trace = Trace.open(self._path)

    @property
    def trace(self) -> Trace:
        """What was recorded, once the profile is finished.

        Raises:
            InvalidArgumentError: The ``with`` block has not been left yet, or nothing was measured in it.
        """
        if self._trace is None:
            raise InvalidArgumentError(
                "there is no trace: read it after the with block, in which something was measured"
            )
        return self._trace

    def __enter__(self) -> Profiler:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Completes the trace, also after an error or Ctrl-C."""
        try:
            self.finish()
        finally:
            self._remove_folder()

    def _remove_folder(self) -> None:
        """Removes the temporary file's name; the trace keeps its mapped bytes."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def checked_prompt(prompt: str | Sequence[int] | None, prompt_tokens: int | None, *, chat: bool) -> dict[str, Any]:
    """Returns the core's options for a prompt, of which one form has to be given."""
    if prompt is None and prompt_tokens is None:
        raise InvalidArgumentError("the prompt is None: give a text, token ids or prompt_tokens")
    if prompt is not None and prompt_tokens is not None:
        raise InvalidArgumentError("a prompt and prompt_tokens: give one of them")
    if checked_flag("chat", chat) and not isinstance(prompt, str):
        raise InvalidArgumentError("chat needs a prompt of text")
    ids = [] if prompt is None or isinstance(prompt, str) else checked_ids(prompt)
    if prompt is not None and not isinstance(prompt, str) and not ids:
        raise InvalidArgumentError("the prompt is empty: give at least one token")
    return {
        "prompt": checked_text(prompt, "the prompt") if isinstance(prompt, str) else "",
        "prompt_ids": ids,
        "prompt_tokens": None if prompt_tokens is None else checked_number("prompt_tokens", prompt_tokens),
        "chat": chat,
    }


def _metadata_json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the metadata cannot be written as JSON: {error}") from error


def level_mask(levels: Sequence[str]) -> int:
    """Returns the core's bit mask for level names.

    Raises:
        InvalidArgumentError: A name is unknown.
    """
    mask = 0
    for level in checked_names("levels", levels):
        if level not in LEVELS:
            raise InvalidArgumentError(f"unknown level {json.dumps(level)}: choose from {', '.join(LEVELS)}")
        mask |= LEVELS[level]
    return mask


def sensor_list(sensors: str | Sequence[str]) -> list[str]:
    """Returns names of sensors for the core: ``"auto"`` stands for all, ``"none"`` or nothing for none.

    Raises:
        InvalidArgumentError: "none" stands beside other names. Unknown names are the core's to refuse.
    """
    names = [part for each in checked_names("sensors", sensors) for part in each.split(",")]
    names = [name.strip() for name in names if name.strip()]
    if "none" in names and len(names) > 1:
        raise InvalidArgumentError('sensor "none" beside others: give "none" alone, or leave it out')
    return [] if names == ["none"] else names


def profile(
    llm: LLM,
    *,
    levels: Sequence[str] = ("tokens", "ops"),
    output: str | PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    log_bytes: int = DEFAULT_LOG_BYTES,
    watch_switches: bool = True,
    sensors: str | Sequence[str] = "auto",
    sensor_hz: float = DEFAULT_SENSOR_HZ,
) -> Profiler:
    """Starts recording runs of a model; use it in a ``with`` block and read ``.trace`` after it.

    Args:
        llm: A loaded model.
        levels: What to record: ``"tokens"`` (runs, phases, tokens), ``"ops"`` (each op on each thread) and ``"memory"``
            (buffers of the runtime, memory of the process, disturbance by the host), ``"counters"`` (cycles,
            instructions, cache and branch misses, page faults of each op; includes ops).
        output: Where the trace is written while it grows; by default a temporary file that goes with the trace.
        metadata: A JSON-able mapping of your own, merged into the trace's metadata.
        log_bytes: Memory for the ops of one run; graphs beyond it are dropped and counted.
        watch_switches: At level ops, mark the ops within which a thread lost its processor.
        sensors: What to read of power, heat, clocks and load: ``"auto"`` is all that this machine has, ``"none"``
            nothing; or names of `sensor_names`, each of which then has to be there.
        sensor_hz: How often, from 0.1 to 1000 times a second; a slower sensor is read as often as it may be.

    Raises:
        InvalidArgumentError: A level is unknown or the runtime cannot record it; a sensor asked for by name is unknown
            or absent; `output` is the model, or another file that is no trace.
        StorageError: `output` cannot be written.
    """
    if llm.device is not None:
        from melt_core.profiling.remote import RemoteLLM, RemoteProfiler  # which build upon this module, and on devices

        assert isinstance(llm, RemoteLLM)
        return RemoteProfiler(
            llm,
            levels=levels,
            output=output,
            metadata=metadata,
            log_bytes=log_bytes,
            watch_switches=watch_switches,
            sensors=sensors,
            sensor_hz=sensor_hz,
        )
    return Profiler(
        llm,
        levels=levels,
        output=output,
        metadata=metadata,
        log_bytes=log_bytes,
        watch_switches=watch_switches,
        sensors=sensors,
        sensor_hz=sensor_hz,
    )
