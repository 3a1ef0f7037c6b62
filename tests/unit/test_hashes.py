"""What tells two models apart, and that large ones are read once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.models.hashes import digest_of, digest_of_files, sha256_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = sha256_of(file)
    assert first == sha256_of(file)
    assert digest_of(file) == (hashlib.sha256(b"one").hexdigest(), 3)
    file.write_bytes(b"two!")
    assert sha256_of(file) != first
    with pytest.raises(InvalidArgumentError):
        sha256_of(tmp_path)
    with pytest.raises(StorageError):
        sha256_of(tmp_path / "missing")
    (cache / "hashes.json").write_text("[damaged")
    assert sha256_of(file)


def test_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(f"of {name}")
    first, n_bytes = digest_of(folder)
    assert n_bytes == 8
    # A name, or a byte anywhere, makes another model; so do contents that changed places.
    (folder / "b").rename(folder / "c")
    assert digest_of(folder)[0] != first
    (folder / "c").rename(folder / "b")
    assert digest_of(folder)[0] == first
    assert digest_of_files([folder / "b", folder / "a"]) != first == digest_of_files([folder / "a", folder / "b"])
    with pytest.raises(StorageError):
        digest_of(tmp_path / "missing")


def test_what_did_not_change_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shard = folder / "shard"
    shard.write_bytes(b"one")
    first, _ = digest_of(folder)
    status = shard.stat()
    shard.write_bytes(b"two")  # as no program leaves it: other bytes under the old time
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_of(folder)[0] == first
    (cache / "hashes.json").unlink()
    assert digest_of(folder)[0] != first


def test_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    monkeypatch.setenv("MELT_CACHE_DIR", str(file))  # no folder
    assert sha256_of(file) == hashlib.sha256(b"one").hexdigest()
