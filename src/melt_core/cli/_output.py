"""What commands share: opening traces and printing results."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melt_core.errors import StorageError

if TYPE_CHECKING:
    from melt_core.trace import Trace


def open_trace(path: str) -> Trace:
    """Opens a trace; what is damaged in it is said on standard error."""
    from melt_core.trace import Trace

    trace = Trace.open(path)
    for warning in trace.damage:
        print(f"melt: warning: {path}: {warning}", file=sys.stderr)
    return trace


def check_writable(output: str) -> None:
    """Fails before anything is measured, not after. Raises: StorageError."""
    from melt_core.trace.storage import checked_name

    path = Path(checked_name("write", output))
    try:
        if path.is_dir():
            raise StorageError(f"cannot write {output}: it is a directory; name a file")
        if not path.parent.is_dir():
            raise StorageError(f"cannot write {output}: there is no directory {path.parent}")
    except StorageError:
        raise
    except OSError as error:  # as of a name that is too long
        raise StorageError.from_os_error("write", output, error) from error


def terminal_width() -> int | None:
    """Returns the columns of the terminal that standard output is; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(value: Any) -> None:
    """Prints JSON; NaN and infinities, which JSON lacks, become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
