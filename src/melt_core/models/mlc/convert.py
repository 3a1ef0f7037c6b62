"""Converts a model file to an MLC model directory: parameters, library, tokenizer, configuration; then checks it.

Data path: GGUF or safetensors -> `Source` -> quantised shards, beside them the compiler in a process of its own ->
checks -> the directory gets its name. Until then all lies in a hidden sibling, so a directory of that name is whole.

Example:
    conversion = convert(Path("model.gguf"), Path("model-q4f16_1"), quantization="q4f16_1")
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from melt_core.errors import InvalidArgumentError, MissingExtraError, ModelError, StorageError
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.files import CONFIG_NAME
from melt_core.models.mlc.open import open_source
from melt_core.models.mlc.packing import quantize
from melt_core.models.mlc.quantization import Quantization, quantization_of
from melt_core.models.mlc.source import Chat, Source
from melt_core.models.mlc.targets import Machine, machine_of
from melt_core.models.mlc.verify import Verification, verify_shards, verify_values
from melt_core.models.mlc.writer import ShardWriter

#: Most tokens of one evaluation, as MLC's default.
PREFILL_CHUNK = 2048

#: Called with what is being done, and how much of all is done (0..1).
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Conversion:
    """What was made."""

    folder: str
    source: str
    model_type: str
    quantization: str
    target: str
    n_params: int
    weights_bytes: int
    library: str
    library_bytes: int
    has_tokenizer: bool
    duration_s: float
    verification: Verification

    @property
    def bits_per_weight(self) -> float:
        """Bits of all parameters, for each weight."""
        return self.weights_bytes * 8 / self.n_params


def convert(
    source: Path,
    folder: Path,
    *,
    quantization: str,
    target: str = "host",
    linker: str = "",
    prefill_chunk_size: int = PREFILL_CHUNK,
    report: Report = lambda what, done: None,
) -> Conversion:
    """Writes an MLC model directory.

    Args:
        source: A GGUF file, or a directory with ``config.json`` and safetensors.
        folder: The directory to make; it must not exist, or be empty.
        quantization: One of MLC's names, such as ``q4f16_1``.
        target: ``host``, or another machine that the library is for.
        linker: A compiler that links for the target, such as NDK's ``aarch64-linux-android28-clang++``; without one,
            targets other than Linux give an archive of objects.
        prefill_chunk_size: Most tokens of one evaluation; activations take memory for as many.
        report: Told how far it is.

    Raises:
        InvalidArgumentError: Unknown quantisation or target, no linker for it, or the directory exists.
        MissingExtraError: The extra ``mlc`` is not installed.
        ModelError: The source is damaged or of an architecture that cannot be converted, or what was made does not
            compute what the source does.
        StorageError: The system refused to write, or there is not enough space.
    """
    started = time.monotonic()
    q, machine = quantization_of(quantization), machine_of(target, linker)
    if prefill_chunk_size < 1:
        raise InvalidArgumentError(f"a chunk of {prefill_chunk_size} tokens cannot be: give at least 1")
    _check_tools(machine)
    report("reading", 0.0)
    opened = open_source(source, prefill_chunk_size)
    _check_sizes(opened)
    with _new_directory(folder, _expected_bytes(opened.config, q)) as partial:
        library = partial / ("model.so" if machine.shared else "model.tar")
        with _compiler(library, opened.config, q, machine) as wait_for_library:
            n_params, n_bytes = _write_parameters(opened, q, partial, report)
            files = opened.write_tokenizer(partial)
            report("compiling", 0.6)
            wait_for_library()
        _write_config(partial, opened, q, files)
        verify_shards(partial)
        report("verifying", 0.8)
        verification = verify_values(partial, opened, q, machine)
        library_bytes = library.stat().st_size
    report("done", 1.0)
    return Conversion(
        folder=str(folder),
        source=str(source),
        model_type=opened.config.model_type,
        quantization=quantization,
        target=target,
        n_params=n_params,
        weights_bytes=n_bytes,
        library=library.name,
        library_bytes=library_bytes,
        has_tokenizer=bool(files),
        duration_s=time.monotonic() - started,
        verification=verification,
    )


def _check_tools(machine: Machine) -> None:
    for package, distribution in (("tvm", "apache-tvm"), ("tvm_ffi", "apache-tvm-ffi")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(distribution, extra="mlc")
    if not machine.shared:
        return
    if machine.linker and shutil.which(machine.linker) is None:
        raise InvalidArgumentError(
            f"there is no {machine.linker} here to link for {machine.name}: install it "
            "(Debian, Ubuntu: apt install g++-aarch64-linux-gnu), or name a linker"
        )
    if not machine.linker and not any(shutil.which(each) for each in ("g++", "clang++", "gcc", "clang", "c++")):
        raise InvalidArgumentError("there is no compiler here to link the library with: install g++ or clang")


def _check_sizes(source: Source) -> None:
    c = source.config
    if c.head_dim % 2 or c.num_attention_heads % c.num_key_value_heads:
        heads = f"{c.num_attention_heads} heads of {c.head_dim} values, and {c.num_key_value_heads} of K and V"
        raise ModelError(f"{source.path}: {heads} cannot be")


def _expected_bytes(config: ModelConfig, q: Quantization) -> int:
    value = 2 if q.dtype == "float16" else 4
    total = sum(config.vectors().values()) * value
    for n, k in config.matrices().values():
        total += n * (q.n_words(k) * 4 + q.n_groups(k) * value) if q.bits else n * k * value
    return total


@contextmanager
def _new_directory(folder: Path, n_bytes: int) -> Iterator[Path]:
    """Gives a hidden sibling of `folder`, which gets its name at the end; on any error it is removed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidArgumentError(f"{folder} exists already: name another directory, or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < n_bytes:
            raise StorageError(
                f"cannot write {folder}: {n_bytes / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
            )
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os_error("write", str(folder), error) from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        partial.replace(folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os_error("write", error.filename or str(folder), error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _compiler(library: Path, config: ModelConfig, q: Quantization, machine: Machine) -> Iterator[Callable[[], None]]:
    """Starts the compiler beside the caller, and gives what waits for it. A process of its own can be ended."""
    command = [sys.executable, "-m", "melt_core.models.mlc.compiler", str(library)]
    request = {"config": config.to_json(), "quantization": q.name, "target": machine.name}
    if not machine.is_host and machine.shared:
        request["linker"] = machine.linker
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

        def wait() -> None:
            if process.wait() != 0 or not library.exists():
                log.seek(0)
                text = log.read().decode(errors="replace").strip()
                last = text.splitlines()[-1] if text else f"it ended with {process.returncode}"
                raise ModelError(f"TVM could not compile the model for {machine.name}: {last}")

        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            yield wait
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _write_parameters(source: Source, q: Quantization, folder: Path, report: Report) -> tuple[int, int]:
    """Writes all parameters; returns how many weights there are, and bytes."""
    config, writer = source.config, ShardWriter(folder)
    names = [*config.matrices(), *config.vectors()]
    n_params = 0
    for number, name in enumerate(names):
        report("weights", 0.6 * number / len(names))
        if name in config.matrices():
            values = source.parameter(f"{name}.weight")
            if q.bits:
                words, scales = quantize(values, q)
                writer.add(f"{name}.q_weight", words)
                writer.add(f"{name}.q_scale", scales)
            else:
                writer.add(f"{name}.weight", values.astype(q.dtype))
        else:
            values = source.parameter(name)
            writer.add(name, values.astype(q.dtype))
        n_params += values.size
    writer.finish(n_params)
    return n_params, writer.n_bytes


def _write_config(folder: Path, source: Source, q: Quantization, tokenizer_files: list[str]) -> None:
    config, chat = source.config, source.chat
    values = {
        "version": "0.1.0",
        "model_type": config.model_type,
        "quantization": q.name,
        "model_config": config.to_json(),
        "vocab_size": config.vocab_size,
        "context_window_size": config.context_window_size,
        "sliding_window_size": -1,
        "prefill_chunk_size": config.prefill_chunk_size,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "tokenizer_files": tokenizer_files,
        **_chat_values(chat),
    }
    (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2), encoding="utf-8")


def _chat_values(chat: Chat) -> dict[str, object]:
    found: dict[str, object] = {"eos_token_id": list(chat.eos)}
    if chat.bos is not None:
        found["bos_token_id"] = chat.bos
    if chat.template is not None:
        found["conv_template"] = chat.template
    return found
