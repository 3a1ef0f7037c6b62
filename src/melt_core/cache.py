"""Where downloads and what can be made again are kept.

`tools/third_party.py` loads this module by file path before the package is installed, so it uses the standard library
only and imports nothing from `melt_core`.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the user's folder for it: ``MELT_CACHE_DIR``, else ``melt_core`` in XDG_CACHE_HOME (``~/.cache``).

    The path is absolute; the folder need not exist.
    """
    chosen = os.environ.get("MELT_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(chosen).expanduser() if chosen else Path(base).expanduser() / "melt_core").absolute()
