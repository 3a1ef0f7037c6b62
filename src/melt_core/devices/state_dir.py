"""What this host remembers about devices: the journal of runs, its own name."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from melt_core.errors import StorageError
from melt_core.trace.storage import written_atomically

_MAX_STATE_BYTES = 16 << 20


def state_dir() -> Path:
    """Returns the user's folder for state: ``MELT_STATE_DIR``, else ``melt_core`` in XDG_STATE_HOME.

    Raises:
        StorageError: It cannot be made.
    """
    chosen = os.environ.get("MELT_STATE_DIR")
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(chosen).expanduser() if chosen else Path(base).expanduser() / "melt_core"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error("make", str(folder), error) from error
    return folder


def host_id() -> str:
    """Returns what this host is called in leases: its name and a number that is drawn once and kept."""
    path = state_dir() / "host_id"
    known = read_json(path)
    if isinstance(known, str) and 0 < len(known) <= 200:
        return known
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in socket.gethostname())[:100]
    made = f"{name or 'host'}-{secrets.token_hex(4)}"
    write_json(path, made)
    return made


def boot_id() -> str:
    """Returns what names this start of the host's system: its steady clock is only good for one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"


def read_json(path: Path) -> Any:
    """Returns the JSON in a file of ours; None where there is none or it is damaged."""
    try:
        if path.stat().st_size > _MAX_STATE_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all. Raises: StorageError."""
    with written_atomically(path) as file:
        file.write(json.dumps(value, indent=1).encode())
