"""Names of devices: ``local``, ``adb:SERIAL``, ``ssh:[user@]HOST[:PORT]``, ``ios:UDID``."""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.errors import InvalidArgumentError
from melt_core.transports import SshAddress

KINDS = ("local", "adb", "ssh", "ios")
_MOST_CHARACTERS = 256
_FORMS = "local, adb:SERIAL, ssh:[user@]HOST[:PORT] or ios:UDID"


@dataclass(frozen=True)
class DeviceUri:
    """A device's name, taken apart: the transport, and what that one calls the device (empty for local)."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse_uri(text: str) -> DeviceUri:
    """Takes a device's name apart.

    Raises:
        InvalidArgumentError: It names no device; the message shows the forms there are.
    """
    if not text or len(text) > _MOST_CHARACTERS or any(character in text for character in "\0\n\r"):
        raise InvalidArgumentError(f"{text[:60]!r} names no device: give {_FORMS}")
    kind, colon, name = text.partition(":")
    if kind == "local" and not colon:
        return DeviceUri("local")
    if kind not in KINDS or kind == "local" or not name:
        raise InvalidArgumentError(f"{text!r} names no device: give {_FORMS}")
    if kind == "ssh":
        return DeviceUri("ssh", str(SshAddress.of(name)))
    if name.startswith("-") or name != name.strip():
        raise InvalidArgumentError(f"{text!r} names no device: {name[:40]!r} is no serial or UDID")
    return DeviceUri(kind, name)
