"""Talks with melt-agent over a transport's line channel: one request, one answer (docs/agent_protocol.md).

What a device answers is untrusted: sizes, types and ranges are checked before a value is used, and nothing in it is
ever taken for a path of the host.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from melt_core import errors
from melt_core.devices.clock import Exchange
from melt_core.devices.retry import Patience, retried
from melt_core.errors import DeviceBusyError, DeviceError, MeltError, TransientDeviceError
from melt_core.transports import LineChannel

PROTOCOL = 1
DEFAULT_TIMEOUT_S = 30.0
HASH_TIMEOUT_S = 600.0
_MAX_MESSAGE_CHARACTERS = 2000
_HIGHEST = 2**63 - 1

#: What an agent may raise here; any other name is a `DeviceError`.
_KINDS: Mapping[str, type[MeltError]] = {
    kind.__name__: kind
    for kind in (
        *errors.ERROR_BY_KIND.values(),
        DeviceBusyError,
        DeviceError,
        TransientDeviceError,
    )
}


class Reply:
    """An answer, whose fields are checked when they are read. Every reader raises DeviceError for what cannot be."""

    def __init__(self, values: Mapping[str, Any], uri: str) -> None:
        """Wraps the answer's object."""
        self._values = values
        self._uri = uri

    def has(self, name: str) -> bool:
        """Returns whether a field is there and not null."""
        return self._values.get(name) is not None

    def integer(self, name: str, *, low: int = 0, high: int = _HIGHEST) -> int:
        """Returns a whole number."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low} to {high}")
        return value

    def text(self, name: str, *, most: int = 4096) -> str:
        """Returns a text of at most `most` characters."""
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) > most:
            raise self._wrong(name, f"a text of at most {most} characters")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """Returns token ids; none where the field is missing."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or any(type(one) is not int or not 0 <= one < 2**31 for one in value):
            raise self._wrong(name, "a list of token ids")
        return tuple(value)

    def objects(self, name: str) -> list[Reply]:
        """Returns a list of objects; none where the field is missing."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self._wrong(name, "a list of objects")
        return [Reply(one, self._uri) for one in value]

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of texts; none where the field is missing."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and len(one) < 256 for one in value):
            raise self._wrong(name, "a list of texts")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Returns an object as it is; empty where the field is missing."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value

    def error(self) -> MeltError:
        """Returns the error that the field ``error`` describes, with its kind."""
        return error_of(self._values.get("error"), self._uri)

    def _wrong(self, name: str, wanted: str) -> DeviceError:
        said = repr(self._values.get(name))[:80]
        return DeviceError(f'the agent on {self._uri} answered "{name}": {said}; {wanted} was expected')


def error_of(value: Any, uri: str) -> MeltError:
    """Returns the error that an agent's answer describes; whatever it is, it becomes one of our tree."""
    fields = value if isinstance(value, dict) else {}
    message = fields.get("message")
    text = message if isinstance(message, str) and message else "the agent failed and did not say why"
    kind = _KINDS.get(str(fields.get("kind")), DeviceError)
    made: MeltError = kind(f"{text[:_MAX_MESSAGE_CHARACTERS]} (on {uri})")
    return made


class AgentClient:
    """The agent on one device. Opens its channel when it is needed, and anew when it broke.

    Threads may share it; requests follow each other.
    """

    def __init__(self, open_channel: Callable[[], LineChannel], *, uri: str, host: str) -> None:
        """Talks through channels of `open_channel`, as `host`."""
        self._open = open_channel
        self._uri = uri
        self._host = host
        self._channel: LineChannel | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def ask(self, op: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, **fields: Any) -> Reply:
        """Returns the answer to one request. Sends it once.

        Raises:
            TransientDeviceError: The connection broke or nothing came in time; the request may or may not have been
                carried out.
            DeviceError: The answer is none of the protocol.
            MeltError: What the agent answered, with its kind.
        """
        with self._lock:
            number = next(self._numbers)
            request = {"id": number, "op": op, "host": self._host, **fields}
            try:
                self._channel = self._channel or self._open()
                self._channel.send(json.dumps(request, allow_nan=False).encode(), timeout_s=timeout_s)
                line = self._channel.receive(timeout_s=timeout_s)
                return self._checked(line, number)
            except DeviceBusyError:
                raise
            except (DeviceError, errors.CancelledError):
                self.close()  # whatever comes next is the answer to nothing
                raise

    def insist(
        self,
        op: str,
        *,
        patience: Patience,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        cancel: threading.Event | None = None,
        **fields: Any,
    ) -> Reply:
        """Returns the answer to a request that may be sent twice, trying again while the device is out of reach."""
        return retried(
            f"{op} on {self._uri}",
            lambda: self.ask(op, timeout_s=timeout_s, **fields),
            patience=patience,
            cancel=cancel,
        )

    def exchange_clock(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Exchange, int, str]:
        """Returns one round trip, the device's wall clock minus its steady clock in ns, and what names its start."""
        send = time.monotonic_ns()
        reply = self.ask("clock", timeout_s=timeout_s)
        receive = time.monotonic_ns()
        steady = reply.integer("steady_ns")
        wall = reply.integer("wall_ns")
        boot = reply.text("boot_id", most=128) if reply.has("boot_id") else ""
        return Exchange(send, steady, receive), wall - steady, boot

    def close(self) -> None:
        """Ends the connection; the next request opens a new one. Closing twice is harmless."""
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None:
                channel.close()

    def _checked(self, line: bytes, number: int) -> Reply:
        try:
            values = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise DeviceError(
                f"the agent on {self._uri} answered {line[:80]!r}, which is no line of its protocol: another program "
                "is there, or it was damaged; `melt devices clean` removes it"
            ) from error
        if not isinstance(values, dict) or not isinstance(values.get("ok"), bool):
            raise DeviceError(f"the agent on {self._uri} answered {line[:80]!r}: an object with ok was expected")
        if values.get("id") is None and not values["ok"]:  # it cannot start, or could not read the line
            raise error_of(values.get("error"), self._uri)
        if values.get("id") != number:
            raise DeviceError(f"the agent on {self._uri} answered request {values.get('id')!r} instead of {number}")
        if not values["ok"]:
            raise error_of(values.get("error"), self._uri)
        return Reply(values, self._uri)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
