"""The line-wise channel to the app on iOS: requests and answers are files of its Documents folder.

    send     -> apps push SESSION.N.in  -> the app answers ->  apps pull SESSION.N.out  -> receive

Every line costs a start of `pymobiledevice3` each way, and the wait of the app's next look: seconds, not milliseconds.
What was sent before a cable was pulled is carried out once all the same.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from melt_core.errors import DeviceError, InvalidArgumentError, TransientDeviceError
from melt_core.transports.base import DEFAULT_RUN_TIMEOUT_S, MAX_LINE_BYTES, Cancel, LineChannel
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import Deadline

MAILBOX = RemotePath.of("mailbox")
_LOOK_S = 0.2


class MailboxChannel(LineChannel):
    """Lines to and from the app, one at a time.

    Args:
        put: Brings a file of the host to a path of the app's folder.
        get: Returns a file of the app's folder, at most so many bytes; None if it is not there.
        name: What it is called in messages.
    """

    def __init__(
        self,
        put: Callable[[Path, RemotePath, Deadline], None],
        get: Callable[[RemotePath, int, Deadline], bytes | None],
        *,
        name: str,
    ) -> None:
        self._put = put
        self._get = get
        self._name = name
        self._session = secrets.token_hex(8)
        self._sent = 0
        self._received = 0
        self._open = True

    def send(self, line: bytes, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> None:
        """Sends one line; see the interface."""
        if b"\n" in line or len(line) >= MAX_LINE_BYTES:
            raise InvalidArgumentError(f"a line has no newline in it and fewer than {MAX_LINE_BYTES} bytes")
        self._check_open()
        self._sent += 1
        deadline = Deadline(timeout_s, what=f"send a line to {self._name}", cancel=cancel)
        with tempfile.TemporaryDirectory(prefix="melt-") as folder:
            file = Path(folder) / "line"
            file.write_bytes(line + b"\n")
            self._put(file, MAILBOX / f"{self._session}.{self._sent}.in", deadline)

    def receive(self, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> bytes:
        """Returns the next answer; see the interface."""
        self._check_open()
        if self._received == self._sent:
            raise InvalidArgumentError(f"nothing was sent to {self._name} that is still to be answered")
        deadline = Deadline(timeout_s, what=f"wait for a line of {self._name}", cancel=cancel)
        path = MAILBOX / f"{self._session}.{self._received + 1}.out"
        while (answer := self._get(path, MAX_LINE_BYTES + 1, deadline)) is None:
            deadline.wait(_LOOK_S)
        if not answer.endswith(b"\n") or b"\n" in answer[:-1]:
            self.close()
            raise DeviceError(f"{self._name} answered what is no line: it does not speak the agent protocol")
        self._received += 1
        return answer[:-1]

    @property
    def errors(self) -> str:
        """The app's standard error is not seen by a host."""
        return ""

    def close(self) -> None:
        """Forgets the session; the app goes on. Closing twice is harmless."""
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise TransientDeviceError(f"the channel to {self._name} is closed: open a new one")
