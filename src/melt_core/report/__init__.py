"""From figures to what people and other tools read. Formatting for people lives here and nowhere before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Ceilings
    from melt_core.trace import Trace

__all__ = ["report"]


def report(traces: Trace | Sequence[Trace], path: str | os.PathLike[str], *, ceilings: Ceilings | None = None) -> None:
    """Writes an HTML report of one trace, or of several side by side.

    Args:
        traces: One trace or several.
        path: The file to write, whole or not at all.
        ceilings: Of the machine that the traces are of: adds a roofline to each.

    Raises:
        InvalidArgumentError: if there is no trace, or `path` is one of them.
        StorageError: if the file cannot be written.
    """
    from melt_core.report.html import write  # `import melt_core` imports this package: keep that light

    write(traces, path, ceilings=ceilings)
