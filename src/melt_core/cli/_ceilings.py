"""The ceilings of this machine, for the commands that compare with them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from melt_core.errors import MeltError

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Ceilings

_MODULE = "melt_core.profiling.ceilings"


def cached_ceilings() -> Ceilings | None:
    """Returns the ceilings that were measured on this machine before; None if there are none."""
    try:
        module: Any = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        return None
    found: Ceilings | None = module.load_ceilings()
    return found


def required_ceilings() -> Ceilings:
    """Returns the ceilings of this machine.

    Raises:
        MeltError: if none were measured yet.
    """
    found = cached_ceilings()
    if found is None:
        raise MeltError("no ceilings of this machine are known yet: measure them with `melt doctor --ceilings`")
    return found
