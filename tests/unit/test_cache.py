"""One rule says where downloads, kept measurements and this host's work directory lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from melt_core.cache import cache_dir
from melt_core.models import CATALOG, cached_path
from melt_core.profiling import ceilings
from melt_core.transports import LocalTransport


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and none of the variables that lead elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MELT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_what_is_chosen_goes_before_the_systems_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == home / ".cache/melt_core"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_dir() == home / "xdg/melt_core"
    monkeypatch.setenv("MELT_CACHE_DIR", "~/mine")
    assert cache_dir() == home / "mine"
    monkeypatch.chdir(home)
    monkeypatch.setenv("MELT_CACHE_DIR", "here")
    assert cache_dir() == home / "here"


def test_all_is_kept_below_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    with LocalTransport() as local:
        places = [cached_path(CATALOG[0]), ceilings.cache_path(), Path(local.work_dir)]
    assert all((home / "xdg/melt_core") in path.parents for path in places), places
