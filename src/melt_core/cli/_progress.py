"""A progress bar on a terminal; silent where there is none."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

WIDTH = 28


class Progress:
    """One line that is written over; use it in a ``with`` block, which wipes it."""

    def __init__(self, stream: TextIO) -> None:
        """Draws on `stream` if that is a terminal."""
        self._stream = stream
        self._active = stream.isatty()
        self._drawn = ""

    def update(self, label: str, done: float) -> None:
        """Shows `label` and a bar of 0..1."""
        filled = round(min(max(done, 0.0), 1.0) * WIDTH)
        line = f"{label:<24} [{'#' * filled}{'.' * (WIDTH - filled)}] {done:4.0%}"
        if self._active and line != self._drawn:
            self._stream.write("\r" + line.ljust(len(self._drawn)))
            self._stream.flush()
            self._drawn = line

    def wipe(self) -> None:
        """Clears the line, for something else to be printed; the next update draws it again."""
        if self._drawn:
            self._stream.write("\r" + " " * len(self._drawn) + "\r")
            self._stream.flush()
            self._drawn = ""

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipes the line."""
        self.wipe()
