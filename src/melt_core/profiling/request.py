"""A profile as data: what the command line asks for and what a child process is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from inspect import signature
from typing import Any

from melt_core.errors import InvalidArgumentError
from melt_core.profiling.profiler import DEFAULT_LOG_BYTES, DEFAULT_SENSOR_HZ


@dataclass(frozen=True)
class ProfileRequest:
    """Load one model, run it, write one trace: what `melt.load`, `melt.profile` and `Profiler.run` are given.

    Attributes:
        model: Path of the model file, or a description for the synthetic runtime.
        output: Path of the trace to write.
        prompt: Text; None if `prompt_tokens` or `prompt_ids` is given.
        prompt_ids: Token ids to replay.
    """

    model: str
    output: str
    runtime: str = "llama.cpp"
    prompt: str | None = None
    chat: bool = False
    prompt_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    forced_ids: tuple[int, ...] = ()
    keep_logits: bool = False
    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    seed: int = 0
    ignore_eos: bool = False
    repeats: int = 3
    warmup: int = 1
    levels: tuple[str, ...] = ("tokens", "ops")
    n_ctx: int = 2048
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int | None = None
    use_mmap: bool = True
    check_tensors: bool = False
    repack: bool = True
    kv_type: str = "f16"
    model_lib: str | None = None
    runtime_path: str | None = None
    overhead_budget_s: float = 1.0
    log_bytes: int = DEFAULT_LOG_BYTES
    watch_switches: bool = True
    sensors: tuple[str, ...] = ("auto",)
    sensor_hz: float = DEFAULT_SENSOR_HZ
    idle_s: float = 0.0
    marker: bool = False

    def arguments_for(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Returns the fields that a function of the API takes, by name; `prompt_ids` as its prompt."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.prompt_ids is not None:
            values["prompt"] = self.prompt_ids
        return {name: values[name] for name in signature(function).parameters if name in values}

    def to_json(self) -> str:
        """Returns the request as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> ProfileRequest:
        """Reads what `to_json` wrote. Raises: InvalidArgumentError for anything else."""
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"the request is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidArgumentError(f"the request is {type(values).__name__}: give a JSON object")
        known = {field.name for field in fields(ProfileRequest)}
        for name in ("levels", "prompt_ids", "forced_ids", "sensors"):
            if values.get(name) is not None:
                if not isinstance(values[name], list):
                    raise InvalidArgumentError(f"the request's {name} is {values[name]!a}: give a list")
                values[name] = tuple(values[name])
        for name in ("model", "output"):
            if not isinstance(values.get(name), str):
                raise InvalidArgumentError(f"the request's {name} is {values.get(name)!a}: give a text")
        return ProfileRequest(**{name: value for name, value in values.items() if name in known})
