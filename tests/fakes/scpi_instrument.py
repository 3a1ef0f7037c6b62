"""An instrument that speaks SCPI over a TCP socket on loopback, one line for each command (IEEE 488.2, SCPI-1999)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType


class ScpiInstrument:
    """Listens while its ``with`` block lasts; `readings` gives the answer to each MEAS query."""

    def __init__(self, readings: dict[str, Callable[[int], str]]) -> None:
        self.readings = readings
        self.n_asked: dict[str, int] = dict.fromkeys(readings, 0)
        self.silent_after = 1 << 30
        self.errors = ['-100,"left from before"']
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        return f"TCPIP::127.0.0.1::{self._server.getsockname()[1]}::SOCKET"

    def unplug(self) -> None:
        """Ends the conversation after the answer at hand, and takes no other."""
        self._ending.set()

    def answer(self, command: str) -> str | None:
        """Returns the answer to one command; None for none."""
        if command == "*IDN?":
            return "Simulated,DMM,1,0.1"
        if command.upper() in ("SYST:ERR?", "SYSTEM:ERROR?"):
            return self.errors.pop(0) if self.errors else '+0,"No error"'
        if command in self.readings:
            number = self.n_asked[command]
            self.n_asked[command] += 1
            return None if number >= self.silent_after else self.readings[command](number)
        self.errors.append('-113,"Undefined header"')
        return "" if command.endswith("?") else None

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(0.1)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        pending = b""
        while not self._ending.is_set():
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            pending += data
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                answer = self.answer(line.decode().strip())
                if answer is not None:
                    connection.sendall(answer.encode() + b"\n")

    def __enter__(self) -> ScpiInstrument:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._server.close()
