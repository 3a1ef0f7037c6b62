"""Names of devices: ``local``, ``adb:SERIAL``, ``ssh:[user@]HOST[:PORT]``, ``ios:UDID``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from melt_core.errors import InvalidArgumentError

KINDS = ("local", "adb", "ssh", "ios")
_MOST_CHARACTERS = 256
_FORMS = "local, adb:SERIAL, ssh:[user@]HOST[:PORT] or ios:UDID"


@dataclass(frozen=True)
class DeviceUri:
    """A device's name, taken apart.

    Attributes:
        kind: The transport.
        name: Serial, host or UDID; empty for local.
        user: For ssh; None leaves it to the ssh configuration.
        port: For ssh; None leaves it to the ssh configuration.
    """

    kind: str
    name: str = ""
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        if self.kind == "local":
            return "local"
        name = f"[{self.name}]" if ":" in self.name and self.kind == "ssh" else self.name
        user = f"{self.user}@" if self.user is not None else ""
        return f"{self.kind}:{user}{name}" + (f":{self.port}" if self.port is not None else "")


def parse_uri(text: str) -> DeviceUri:
    """Takes a device's name apart.

    Raises:
        InvalidArgumentError: It names no device; the message shows the forms there are.
    """
    if not text or len(text) > _MOST_CHARACTERS or any(character in text for character in "\0\n\r"):
        raise InvalidArgumentError(f"{text[:60]!r} names no device: give {_FORMS}")
    kind, colon, rest = text.partition(":")
    if kind == "local" and not colon:
        return DeviceUri("local")
    if kind not in KINDS or kind == "local" or not rest:
        raise InvalidArgumentError(f"{text!r} names no device: give {_FORMS}")
    return _ssh(text, rest) if kind == "ssh" else DeviceUri(kind, _checked(text, rest))


def _ssh(text: str, rest: str) -> DeviceUri:
    if rest.startswith("//"):
        raise InvalidArgumentError(f"{text!r}: leave out the slashes, as in ssh:user@host:22")
    user, at, address = rest.rpartition("@")
    if at and (not user or user.startswith("-") or ":" in user):  # a colon would be a password, which is not taken
        raise InvalidArgumentError(f"{text!r}: give ssh:user@host, with keys from the agent or a file, no password")
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.%a-z]+)\](?::(.*))?", address)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif address.count(":") > 1:
        raise InvalidArgumentError(f"{text!r}: put an IPv6 address into brackets, as in ssh:[::1]:22")
    else:
        host, colon, after = address.partition(":")
        port = after if colon else None
    return DeviceUri("ssh", _checked(text, host), user or None, None if port is None else _port(text, port))


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise InvalidArgumentError(f"{text!r}: {port[:20]!r} is no port: give 1 to 65535")
    return int(port)


def _checked(text: str, name: str) -> str:
    if not name or name.startswith("-") or name != name.strip():
        raise InvalidArgumentError(f"{text!r} names no device: {name[:40]!r} is no serial, host or UDID")
    return name
