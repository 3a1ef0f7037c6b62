"""Runs that this host has started on devices and not yet brought back: one folder each in the user's state directory.

    STATE/runs/RUN/entry.json     what was started where; written before the device is told to start
    STATE/runs/RUN/samples.jsonl  round trips of the clock and readings, a line each as they come

A host that is killed at any point finds its run again here: the device goes on, and what was observed is in the file.
The entry goes when the trace is safely at its place, or when it is known that the run never began.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from melt_core.devices.state_dir import read_json, state_dir, write_json
from melt_core.errors import InvalidArgumentError, StorageError

_MAX_SAMPLES_BYTES = 256 << 20
_MAX_LINE_BYTES = 1 << 20
_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """A run that was started, or was about to be.

    Attributes:
        run: Its name, on the device and here.
        uri: The device.
        request: What the agent was told, as its protocol has it.
        output: Where the trace belongs.
        model: The model file on this host.
        model_sha256: Of its content; empty for the synthetic runtime.
        metadata: What goes into the trace beside what the device writes: gates, device.
        started_wall_s: This host's wall clock.
    """

    run: str
    uri: str
    request: Mapping[str, Any]
    output: str
    model: str
    model_sha256: str
    metadata: Mapping[str, Any]
    started_wall_s: float

    def asks_the_same(self, uri: str, request: Mapping[str, Any]) -> bool:
        """Returns whether it is the same request to the same device."""
        return self.uri == uri and json.dumps(self.request, sort_keys=True) == json.dumps(dict(request), sort_keys=True)


def new_run_name() -> str:
    """Returns a name that no other run has: the time, and 48 random bits."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(6)}"


class Journal:
    """The runs that were started and not brought back."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keeps them below `folder`, by default in the user's state directory."""
        self._folder = folder or state_dir() / "runs"

    def add(self, entry: Entry) -> None:
        """Keeps an entry; it is on the disk when this returns. Raises: StorageError."""
        folder = self._of(entry.run)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.from_os_error("make", str(folder), error) from error
        write_json(folder / "entry.json", asdict(entry))

    def entries(self) -> list[Entry]:
        """Returns all entries, the oldest first; damaged ones are passed over."""
        try:
            names = sorted(path.name for path in self._folder.iterdir() if _RUN_NAME.fullmatch(path.name))
        except OSError:
            return []
        found = [entry for name in names if (entry := self.find(name)) is not None]
        return sorted(found, key=lambda entry: entry.started_wall_s)

    def find(self, run: str) -> Entry | None:
        """Returns the entry of a run; None if there is none."""
        values = read_json(self._of(run) / "entry.json")
        known = {field.name for field in fields(Entry)}
        if not isinstance(values, dict) or not known <= set(values) or values["run"] != run:
            return None
        entry = Entry(**{name: values[name] for name in known})
        texts = (entry.uri, entry.output, entry.model, entry.model_sha256)
        sound = all(isinstance(text, str) for text in texts) and isinstance(entry.started_wall_s, (int, float))
        return entry if sound and isinstance(entry.request, dict) and isinstance(entry.metadata, dict) else None

    def remove(self, run: str) -> None:
        """Forgets a run."""
        shutil.rmtree(self._of(run), ignore_errors=True)

    @contextlib.contextmanager
    def attended(self, run: str) -> Iterator[None]:
        """Marks a run as followed by this process, so that no second one brings it back at the same time.

        Raises:
            InvalidArgumentError: Another process follows it.
        """
        path = self._of(run) / "lock"
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = stack.enter_context(path.open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidArgumentError(
                    f"run {run} is followed by another process of this host: wait for that one, or end it"
                ) from error
            except OSError as error:
                raise StorageError.from_os_error("lock", str(path), error) from error
            yield

    def note(self, run: str, line: Mapping[str, Any]) -> None:
        """Appends an observation of a run. Raises: StorageError."""
        path = self._of(run) / "samples.jsonl"
        try:
            with path.open("ab") as file:
                if file.tell() < _MAX_SAMPLES_BYTES:
                    file.write(json.dumps(dict(line), allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise StorageError.from_os_error("write", str(path), error) from error

    def notes(self, run: str) -> Iterator[dict[str, Any]]:
        """Yields the observations of a run; a last line that was cut by the host's end is left out."""
        try:
            with (self._of(run) / "samples.jsonl").open("rb") as file:
                while line := file.readline(_MAX_LINE_BYTES):
                    with contextlib.suppress(ValueError):
                        value = json.loads(line)
                        if isinstance(value, dict):
                            yield value
        except OSError:
            return

    def _of(self, run: str) -> Path:
        if not _RUN_NAME.fullmatch(run):
            raise InvalidArgumentError(f"{run[:80]!r} is no name of a run: `melt devices runs` lists them")
        return self._folder / run


def absolute(path: str) -> str:
    """Returns a path that means the same from another folder."""
    return os.fspath(Path(path).absolute())
