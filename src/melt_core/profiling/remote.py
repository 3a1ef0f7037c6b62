"""Models and profiles on another device, behind the same two words as here: `melt.load` and `melt.profile`.

    melt.load(MODEL, device=phone)  ->  the agent and the model are brought there, once
    melt.profile(llm).run(...)      ->  the agent loads, runs and unloads there; the trace comes back

The agent loads anew for each run, in a process of its own, so a profile on a device holds one run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from melt_core.devices import Device, GateLimits, Measurement, connect
from melt_core.errors import InvalidArgumentError
from melt_core.models import resolve
from melt_core.profiling.isolated import ProfileResult
from melt_core.profiling.profiler import (
    DEFAULT_LOG_BYTES,
    DEFAULT_SENSOR_HZ,
    Completion,
    Profiler,
    checked_prompt,
    level_mask,
)
from melt_core.profiling.request import ProfileRequest
from melt_core.runtime.checks import checked_flag, checked_ids, checked_path
from melt_core.runtime.mlc import MlcTokenizer, load_mlc_tokenizer, tvm_folders
from melt_core.runtime.session import LLM, ModelInfo
from melt_core.runtime.tokenizer import Tokenizer, load_tokenizer
from melt_core.trace.storage import check_trace_output


class RemoteLLM(LLM):
    """A model on another device. Made by `melt.load` with `device`; each run loads it there."""

    device: Device

    def __init__(self, device: Device, request: ProfileRequest, *, owns_device: bool) -> None:
        """Use `melt.load`; `request` says how each run is to load the model."""
        self.device = device
        self.path = request.model
        self.runtime = request.runtime
        self.request = request
        self._owns_device = owns_device
        self._tokenizer: Tokenizer | None = None

    @property
    def info(self) -> ModelInfo:
        """What a session has loaded is in the trace: nothing is loaded between runs. Raises InvalidArgumentError."""
        raise InvalidArgumentError(
            f"{self.path} is on {self.device.uri}: the trace's metadata says what was loaded there"
        )

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Returns the token ids of a text, by the same model file on this host."""
        return self._words().encode(text, add_special=add_special, parse_special=parse_special)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, by the same model file on this host."""
        return self._words().decode(ids)

    def format_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """Not on this side of the device. Raises InvalidArgumentError."""
        raise InvalidArgumentError("the chat format is applied on the device: give the message to run(..., chat=True)")

    def cancel(self) -> None:
        """Ctrl-C ends a run on a device. Raises InvalidArgumentError."""
        raise InvalidArgumentError("a run on a device is ended with Ctrl-C")

    def close(self) -> None:
        """Ends the connection, if `melt.load` made it. Calling it twice is harmless."""
        if self._owns_device:
            self.device.close()

    def _words(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.path, runtime=self.runtime)
        return self._tokenizer


class RemoteProfiler(Profiler):
    """Records one run on another device. Made by `melt.profile`."""

    def __init__(
        self,
        llm: RemoteLLM,
        *,
        levels: Sequence[str],
        output: str | PathLike[str] | None,
        metadata: Mapping[str, Any] | None,
        log_bytes: int = DEFAULT_LOG_BYTES,
        watch_switches: bool = True,
        sensors: str | Sequence[str] = "auto",
        sensor_hz: float = DEFAULT_SENSOR_HZ,
        limits: GateLimits | None = None,
    ) -> None:
        """Use `melt.profile`."""
        level_mask(levels)
        self._llm = llm
        self._request = replace(
            llm.request,
            levels=(levels,) if isinstance(levels, str) else tuple(levels),
            log_bytes=log_bytes,
            watch_switches=checked_flag("watch_switches", watch_switches),
            sensors=(sensors,) if isinstance(sensors, str) else tuple(sensors),
            sensor_hz=sensor_hz,
        )
        self._metadata = dict(metadata or {})
        self._limits = limits or GateLimits()
        self._folder = None
        if output is not None:
            self._path = check_trace_output(checked_path("output", output), inputs=[llm.path])
        else:
            self._folder = tempfile.mkdtemp(prefix="melt-")
            self._path = str(Path(self._folder, "trace.melt"))
        self._trace = None

    def run(self, prompt: str | Sequence[int] | None = None, **options: Any) -> Completion:
        """Runs on the device, with the arguments and defaults of `Profiler.run`. A profile on a device holds one run.

        Raises:
            InvalidArgumentError: It has run already, or an argument is out of range.
            DeviceError: The device refuses; TransientDeviceError: it is out of reach.
            MeltError: What went wrong there, with its kind.
        """
        if self._trace is not None:
            raise InvalidArgumentError("this profile has its run: on a device, use a `with melt.profile(...)` for each")
        given = signature(Profiler.run).bind(self, prompt, **options)
        given.apply_defaults()
        asked = {name: value for name, value in given.arguments.items() if name not in ("self", "prompt")}
        on_repetition = asked.pop("on_repetition")
        asked["forced_ids"] = tuple(checked_ids(asked["forced_ids"], "forced_ids"))
        checked = checked_prompt(prompt, asked["prompt_tokens"], chat=asked["chat"])
        request = replace(
            self._request,
            output=self._path,
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_ids=tuple(checked["prompt_ids"]) or None,
            **asked,
        )

        def tell(event: dict[str, Any]) -> None:
            if on_repetition is not None and event["event"] == "repetition":
                on_repetition(event["done"], event["total"])

        result = profile_on_device(
            request, self._llm.device, limits=self._limits, metadata=self._metadata, on_event=tell
        )
        self._trace = result.trace
        return Completion(result.output_ids, result.output_text, result.prompt_token_ids)

    def sample_idle(self, seconds: float) -> None:
        """Not by itself on a device. Raises InvalidArgumentError."""
        raise InvalidArgumentError("on a device, idling is part of the run: give run(..., idle_s=SECONDS)")

    def mark(self) -> None:
        """Not by itself on a device. Raises InvalidArgumentError."""
        raise InvalidArgumentError("on a device, the pulses are part of the run: give run(..., marker=True)")

    def finish(self) -> None:
        """Does nothing: the trace is complete when the run is."""

    def __exit__(self, *_: object) -> None:
        """Removes the temporary file's name; the trace keeps its mapped bytes."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


@dataclass(frozen=True)
class DeviceResult(ProfileResult):
    """What a run on a device gave."""

    output_ids: tuple[int, ...] = ()


def profile_on_device(
    request: ProfileRequest,
    device: Device | str,
    *,
    limits: GateLimits | None = None,
    telemetry_s: float = 1.0,
    metadata: Mapping[str, Any] | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> DeviceResult:
    """Measures a model on a device; the trace is at ``request.output``, as `profile_in_child` leaves it.

    Args:
        request: What to do; ``request.model`` is a file of this host.
        device: A device, or its name.
        limits: The gates; see docs/devices.md.
        telemetry_s: How often the device's sensors are asked while it runs; 0: not at all.
        metadata: Of your own, for the trace.
        on_event: Told of the progress: push, gate, load, repetition, resume.

    Raises:
        DeviceBusyError: Another host has the device; the message names it.
        TransientDeviceError: The device is out of reach; a run that was started goes on there.
        MeltError: Whatever went wrong, with its class.
        KeyboardInterrupt: After Ctrl-C, once the run has ended there and its trace is here.
    """
    request = _with_token_ids(request)
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(connect(device)) if isinstance(device, str) else device
        runtime_path = _runtime_path(request.runtime, request.runtime_path, at)
        fields = asdict(replace(request, runtime_path=runtime_path))
        measurement = Measurement(
            request={name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
                     if value is not None and name not in ("model", "output")},
            limits=limits or GateLimits(),
            telemetry_s=telemetry_s,
            metadata=metadata,
        )  # fmt: skip
        outcome = at.measure(request.model, measurement, output=request.output, on_event=on_event)
    text = outcome.output_text
    if request.runtime == "mlc" and (words := load_mlc_tokenizer(request.model)) is not None:
        text = words.decode(outcome.output_ids).decode("utf-8", errors="replace")
    return DeviceResult(outcome.trace, text, outcome.prompt_ids, outcome.output_ids)


def _with_token_ids(request: ProfileRequest) -> ProfileRequest:
    """Returns a request whose text, if for MLC, became token ids: its tokenizer does not go to the device."""
    if request.runtime != "mlc" or request.prompt is None:
        return request
    words = MlcTokenizer(request.model)
    text = words.format_chat([("user", request.prompt)]) if request.chat else request.prompt
    return replace(request, prompt=None, chat=False, prompt_ids=tuple(words.encode(text, True, True)))


def _runtime_path(runtime: str, given: str | None, device: Device) -> str | None:
    """Returns where TVM's libraries for a device lie; None where nobody said so and this host's own are not for it."""
    if runtime != "mlc" or given:
        return given
    platform = device.info().platform
    if (platform.system, platform.machine) != (sys.platform, os.uname().machine):
        return None
    return tvm_folders() or os.environ.get("MELT_TVM_PATH")


def load_remote(
    model: str,
    device: Device | str,
    *,
    runtime: str,
    options: Mapping[str, Any],
    on_progress: Callable[[float], None] | None,
) -> RemoteLLM:
    """Brings the agent and the model to a device.

    Args:
        model: As `melt.load` takes it.
        device: A device, or its name.
        runtime: Its name.
        options: The other arguments of `melt.load` that say how.
        on_progress: Called with 0..1.

    Raises: as `profile_on_device` does.
    """
    path = model if runtime == "synthetic" else fspath(resolve(model))
    request = ProfileRequest(model=path, output="", runtime=runtime, **options)
    owns = isinstance(device, str)
    at = connect(device) if isinstance(device, str) else device
    try:
        at.bring(
            path,
            runtime=runtime,
            runtime_path=_runtime_path(runtime, request.runtime_path, at),
            model_lib=request.model_lib,
            on_progress=on_progress,
        )
    except BaseException:
        if owns:
            at.close()
        raise
    return RemoteLLM(at, request, owns_device=owns)
