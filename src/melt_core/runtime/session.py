"""Loaded models.

Example:
    >>> import melt_core as melt
    >>> with melt.load("layers=2", runtime="synthetic") as llm:
    ...     llm.info.n_layer
    2
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from melt_core.errors import InvalidArgumentError
from melt_core.models import resolve
from melt_core.runtime.checks import (
    checked_call,
    checked_flag,
    checked_ids,
    checked_number,
    checked_path,
    checked_text,
    checked_word,
)
from melt_core.runtime.core import _core
from melt_core.runtime.memory import MemoryPart, parts_of
from melt_core.runtime.mlc import load_mlc_tokenizer, tvm_folders

if TYPE_CHECKING:
    from melt_core.devices import Device


@dataclass(frozen=True)
class ModelInfo:
    """What a session has loaded.

    Attributes:
        quantization: As upstream writes it, such as ``Q4_1``.
        size_bytes: Bytes of all tensors.
        n_ctx: Tokens that this session's context holds; `n_ctx_train` is the model's own.
        n_batch: Most tokens that one evaluation takes.
        memory: What the session holds, as the runtime reports it; empty if it does not.
    """

    name: str
    architecture: str
    quantization: str
    n_params: int
    size_bytes: int
    n_layer: int
    n_vocab: int
    n_ctx: int
    n_ctx_train: int
    n_batch: int
    memory: tuple[MemoryPart, ...] = ()


class LLM:
    """A loaded model with its context and KV cache. Made by `load`; one run at a time."""

    #: The device that it is on; None: this process has loaded it.
    device: Device | None = None

    def __init__(self, session: _core.Session, path: str, runtime: str) -> None:
        """Wraps a session of the core; use `load`."""
        self._session = session
        self.path = path
        self.runtime = runtime

    @property
    def info(self) -> ModelInfo:
        """What is loaded. Raises InvalidArgumentError after `close`."""
        info = self._session.info
        values = {name: getattr(info, name) for name in ModelInfo.__dataclass_fields__}
        return ModelInfo(**values | {"memory": parts_of(info.memory)})

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Returns the token ids of a text.

        Args:
            text: Any text.
            add_special: Whether to add the tokens that the model wants around a text, such as BOS.
            parse_special: Whether special tokens may be written in the text, as ``<|im_start|>``.
        """
        return self._session.encode(checked_text(text), add_special, parse_special)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; bytes that are no whole character become U+FFFD.

        Raises:
            InvalidArgumentError: An id is outside the vocabulary.
        """
        return self._session.decode(checked_ids(ids, "ids")).decode("utf-8", errors="replace")

    def format_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """Returns (role, content) pairs in the model's own chat format, ready for the assistant's turn.

        Raises:
            ModelError: The model has no chat template, or one that the runtime does not know.
        """
        try:
            pairs = [(checked_text(role, "a role"), checked_text(content, "a message")) for role, content in messages]
        except InvalidArgumentError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError("messages is no list of pairs: give (role, content) each") from error
        return self._session.format_chat(pairs)

    def cancel(self) -> None:
        """Ends the run under way between two ops. May be called from any thread."""
        self._session.cancel()

    def close(self) -> None:
        """Frees the model; waits for a run under way. Calling it twice is harmless."""
        self._session.close()

    def __enter__(self) -> LLM:
        """Returns itself; leaving the ``with`` block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the model."""
        self.close()


def load(
    model: str | PathLike[str],
    *,
    runtime: str = "llama.cpp",
    device: str | Device = "local",
    n_ctx: int = 2048,
    n_batch: int = 2048,
    n_ubatch: int = 512,
    n_threads: int | None = None,
    use_mmap: bool = True,
    check_tensors: bool = False,
    repack: bool = True,
    kv_type: str = "f16",
    model_lib: str | PathLike[str] | None = None,
    runtime_path: str | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> LLM:
    """Loads a model file into memory, in this process.

    A damaged file is refused before the runtime sees it, but a runtime may still abort the process on what that
    check does not know: profile files that you do not trust with the ``melt profile`` command, which uses a child
    process.

    Args:
        model: A GGUF file; the name of a model that can be fetched, such as ``"demo"``; for the MLC runtime a model
            directory; or for the synthetic runtime a description such as ``"layers=2,op_ns=50000"``.
        runtime: One of `runtime_names`.
        device: Where to run: ``"local"``, this process; a device that `melt.connect` gave, or its name, such as
            ``"adb:SERIAL"``: then the file is brought there now and loaded by each run.
        n_ctx: Context length in tokens; 0 takes the model's own.
        n_batch: Most tokens in one evaluation.
        n_ubatch: Most tokens in one graph.
        n_threads: Computing threads; by default one for each CPU that this process may use.
        use_mmap: Whether to map the file rather than read it.
        check_tensors: Whether to refuse weights that are NaN or infinite; reads the whole file.
        repack: Whether to copy weights into the layout of this CPU's best kernels.
        kv_type: Type of the values in the KV cache, as ggml names it: ``f16``, ``q8_0``, ``q4_0``, ...
        model_lib: For the MLC runtime, the compiled model; by default the one in the model directory.
        runtime_path: For the MLC runtime, folders or files with TVM's libraries, separated by colons; by default those
            of ``MELT_TVM_PATH`` or of the installed packages. With a device, libraries of this host for the device,
            which are brought there, or ``device:PATH`` of one that is there.
        on_progress: Called with 0..1 while loading.

    Raises:
        MissingExtraError: The MLC runtime needs TVM, which is not installed.
        ModelError: The file is missing, damaged or not supported.
        OutOfMemoryError: Weights, context or buffers do not fit.
        InvalidArgumentError: An argument is out of range; nothing has been loaded.
        CancelledError: Loading was interrupted.
    """
    if not isinstance(device, str) and not hasattr(device, "bring"):
        raise InvalidArgumentError(f"device is {device!a}: give a name, such as adb:SERIAL, or what melt.connect gave")
    checked_word("runtime", runtime)
    checked_word("kv_type", kv_type)
    checked_call("on_progress", on_progress)
    path = checked_path("model", model, may_be_empty=runtime == "synthetic")
    library = None if model_lib is None else checked_path("model_lib", model_lib)
    if runtime_path is not None:
        checked_word("runtime_path", runtime_path)
    threads = usable_cpus() if n_threads is None else n_threads
    sizes = {"n_ctx": n_ctx, "n_batch": n_batch, "n_ubatch": n_ubatch, "n_threads": threads}
    flags = {"use_mmap": use_mmap, "check_tensors": check_tensors, "repack": repack}
    options: dict[str, Any] = {name: checked_number(name, value) for name, value in sizes.items()}
    options |= {name: checked_flag(name, value) for name, value in flags.items()}
    if device != "local":
        from melt_core.profiling.remote import load_remote  # only here does loading lead to profiling

        options["n_threads"] = n_threads  # None: one for each CPU of the device
        options |= {"kv_type": kv_type, "model_lib": library, "runtime_path": runtime_path}
        return load_remote(path, device, runtime=runtime, options=options, on_progress=on_progress)
    is_mlc = runtime == "mlc"
    path = path if runtime == "synthetic" else fspath(resolve(path))
    session = _core.Session(
        runtime,
        os.fsencode(path),
        **options,
        kv_type=kv_type,
        runtime_path=(runtime_path or tvm_folders()) if is_mlc else "",
        model_lib=library or "",
        text=load_mlc_tokenizer(path) if is_mlc else None,
        on_progress=on_progress,
    )
    return LLM(session, path, runtime)


def usable_cpus() -> int:
    """Returns how many CPUs this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(len(os.sched_getaffinity(0)), 1)
    return os.cpu_count() or 1
