"""Gives the compiled core, or says what to do where it is missing."""

from __future__ import annotations

try:
    import melt_core._core as _core
except ImportError as error:  # a source tree that was never built, or a module built for another Python
    raise ImportError(
        f"melt_core's compiled core cannot be imported ({error}): build it with `make setup`, "
        "or install a wheel for this Python"
    ) from error

__all__ = ["_core"]
