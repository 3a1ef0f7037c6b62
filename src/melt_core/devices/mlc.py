"""Models of several files (MLC) and the TVM that runs them: what of both goes to a device, and where it lies there.

    model directory -> WORK/models/<hash>-<name>/     configuration, parameters, libraries; no tokenizer
    TVM's libraries -> WORK/runtimes/<hash>/          libtvm_ffi, libtvm_runtime, or an app's one library

The names hold hashes, so what is there is not sent again. Texts become token ids on this host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from melt_core.devices.agents import HASH_DIGITS, MODELS, Platform, deploy
from melt_core.errors import InvalidArgumentError, ModelError, StorageError
from melt_core.models.hashes import digest_of, digest_of_files
from melt_core.models.mlc.files import CACHE_NAMES, CONFIG_NAME
from melt_core.transports import RemotePath, Transport

RUNTIMES = RemotePath.of("runtimes")
#: Before the path of a library that lies on the device already, such as an app's.
ON_DEVICE = "device:"
_LIBRARIES = ("libtvm_ffi", "libtvm_runtime")
#: e_machine of the ELF header, by the machine as uname names it.
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_HOW_TO_GET_TVM = (
    "name its TVM with runtime_path (--runtime-path): a folder with libtvm_ffi and libtvm_runtime for {machine}, as "
    "`pip install --target tvm-{machine} --no-deps --only-binary=:all: --platform manylinux_2_28_{machine} apache-tvm "
    "apache-tvm-ffi` makes it, or device:/PATH of a library that is there"
)


@dataclass(frozen=True)
class ModelFolder:
    """A model directory of this host: the files that a device needs, and what identifies all of it."""

    path: Path
    files: tuple[Path, ...]
    sha256: str
    file_bytes: int


def read_folder(path: Path, *, library: Path | None = None) -> ModelFolder:
    """Returns what of a model directory goes to a device.

    Args:
        path: The directory.
        library: The compiled model, where it is not the one in the directory.

    Raises:
        ModelError: It is no MLC model directory.
        StorageError: A file cannot be read.
    """
    try:
        caches = [path / name for name in CACHE_NAMES if (path / name).is_file()]
        if not (path / CONFIG_NAME).is_file() or not caches:
            raise ModelError(f"{path} is no model directory of MLC: {CONFIG_NAME} and {CACHE_NAMES[0]} are needed")
        shards = [path / name for name in _shards(caches[0])]
        libraries = [library] if library is not None else sorted(path.glob("*.so"))
        if not libraries:
            raise ModelError(
                f"{path} holds no model library (*.so) for the device: compile one, or name it (model_lib)"
            )
        sha256, size = digest_of(path)
        return ModelFolder(path, (path / CONFIG_NAME, *caches, *shards, *libraries), sha256, size)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os_error("read", str(path), error) from error


def deploy_folder(
    transport: Transport, model: ModelFolder, *, on_progress: Callable[[float], None] | None = None
) -> RemotePath:
    """Returns where a model directory lies on the device, having sent what was not there."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.path.resolve().name)[-120:]
    target = MODELS / f"{digest_of_files(model.files)[:HASH_DIGITS]}-{name}"
    total = sum(file.stat().st_size for file in model.files)
    done = 0
    for file in model.files:
        size = file.stat().st_size
        tell = None if on_progress is None else _part_of(on_progress, done / total, size / total)
        deploy(transport, file, target / file.name, on_progress=tell)
        done += size
    return target


def deploy_tvm(transport: Transport, runtime_path: str, platform: Platform) -> str:
    """Returns where TVM lies on the device, for the agent; libraries of this host are sent if they were not there.

    Args:
        transport: The way there.
        runtime_path: Folders and library files of this host, separated by colons; or ``device:PATH``.
        platform: What the libraries must be for.

    Raises:
        InvalidArgumentError: There is no such library, or one is for another processor.
    """
    if not runtime_path:
        raise InvalidArgumentError(
            f"the MLC runtime on {transport.uri}: {_HOW_TO_GET_TVM.format(machine=platform.machine)}"
        )
    if runtime_path.startswith(ON_DEVICE):
        path = runtime_path.removeprefix(ON_DEVICE)
        if not PurePosixPath(path).is_absolute():
            raise InvalidArgumentError(f"{runtime_path!r}: behind {ON_DEVICE} stands an absolute path on the device")
        return path
    files = _libraries_of(runtime_path)
    for file in files:
        if (machine := _machine_of(file)) != platform.machine:
            how = _HOW_TO_GET_TVM.format(machine=platform.machine)
            raise InvalidArgumentError(f"{file} is for {machine}, {transport.uri} is {platform}: {how}")
    target = RUNTIMES / digest_of_files(files)[:HASH_DIGITS]
    for file in files:
        deploy(transport, file, target / file.name)
    return str(target if len(files) > 1 else target / files[0].name)


def _libraries_of(runtime_path: str) -> list[Path]:
    """Returns the library files that folders and files name."""
    found: dict[str, Path] = {}
    for place in (Path(text).expanduser() for text in runtime_path.split(":") if text):
        if place.is_file():
            found.setdefault(place.name, place)
        for name in _LIBRARIES if place.is_dir() else ():
            for file in sorted(place.rglob(f"{name}.so")):
                found.setdefault(file.name, file)
    missing = [name for name in _LIBRARIES if f"{name}.so" not in found]
    if missing and not (len(found) == 1 and len(missing) == len(_LIBRARIES)):  # an app's one library holds both
        raise InvalidArgumentError(f"no {' and no '.join(missing)} in {runtime_path}: both belong to TVM's runtime")
    return [found[name] for name in sorted(found)]


def _machine_of(library: Path) -> str:
    """Returns the processor that a shared library is for."""
    with library.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return "no Linux or Android system"
    number = int.from_bytes(head[18:20], "little")
    return _ELF_MACHINES.get(number, f"processor {number} of the ELF list")


def _shards(cache: Path) -> list[str]:
    """Returns the names of the files of parameters that a model's list holds."""
    try:
        records: Any = json.loads(cache.read_text(encoding="utf-8"))["records"]
        names = list(dict.fromkeys(str(record["dataPath"]) for record in records))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{cache} is no list of parameters: {error!r}") from error
    for name in names:
        RemotePath((name,))  # a file beside the list, and nowhere else
    return names


def _part_of(on_progress: Callable[[float], None], begin: float, share: float) -> Callable[[float], None]:
    return lambda done: on_progress(begin + share * done)
