"""The ceilings of this machine, for the commands that compare with them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melt_core.errors import InvalidArgumentError, MeltError

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Ceilings

_MODULE = "melt_core.profiling.ceilings"


@dataclass(frozen=True)
class _Measured:
    """Measured ceilings as the roofline asks for them: a number, or None where nothing was measured."""

    measured: Any

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.measured.families())

    def read_bandwidth(self, n_threads: int, working_set_bytes: float) -> float | None:
        try:
            return float(self.measured.bandwidth(n_threads, working_set_bytes).value)
        except InvalidArgumentError:
            return None

    def flops(self, n_threads: int, family: str) -> float | None:
        try:
            return float(self.measured.flops(n_threads, family).value)
        except InvalidArgumentError:
            return None

    def describe(self) -> str:
        return f"{self.measured.cpu_model}, measured {self.measured.measured_at[:10]}"


def _load() -> tuple[Ceilings | None, str]:
    """Returns the ceilings kept for this machine, or why there are none."""
    try:
        module: Any = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        return None, "this version cannot measure them"
    loaded = module.load_ceilings()
    if loaded.ceilings is None:
        return None, str(loaded.reason)
    return _Measured(loaded.ceilings), ""


def cached_ceilings() -> Ceilings | None:
    """Returns the ceilings that were measured on this machine before; None if there are none."""
    return _load()[0]


def required_ceilings() -> Ceilings:
    """Returns the ceilings of this machine.

    Raises:
        MeltError: if there are none that may be used.
    """
    found, reason = _load()
    if found is None:
        raise MeltError(f"no ceilings of this machine ({reason}): measure them with `melt doctor --ceilings`")
    return found
