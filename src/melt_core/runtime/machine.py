"""What this machine is and what this build contains, as the core sees it."""

from __future__ import annotations

import json
from typing import Any

from melt_core.runtime.core import _core


def runtime_names() -> list[str]:
    """Returns the names of the runtimes in this build, such as ``["synthetic", "llama.cpp"]``."""
    return _core.runtime_names()


def runtime_details(name: str) -> dict[str, str]:
    """Returns version, commit and CPU kernels of a runtime.

    Raises:
        InvalidArgumentError: This build has no runtime of that name.
    """
    return dict(_core.runtime_details(name))


def device_info() -> dict[str, Any]:
    """Returns what this machine is: the ``device`` metadata of a trace made here."""
    info: dict[str, Any] = json.loads(_core.device_json())
    return info


def counter_info() -> dict[str, Any]:
    """Returns what can be counted per op in this process: each counter with its source, or why it is absent."""
    info: dict[str, Any] = json.loads(_core.counters_json())
    return info


def build_info() -> dict[str, Any]:
    """Returns how the core was built: the ``build`` metadata of a trace made here."""
    info: dict[str, Any] = json.loads(_core.build_json())
    return info


def counter_is_invariant() -> bool:
    """Tells whether the CPU's cycle counter runs at one rate, whatever the core's frequency."""
    return _core.counter_is_invariant()
