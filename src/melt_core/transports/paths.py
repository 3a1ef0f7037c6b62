"""Paths on a device, confined to the work directory by their type.

A path that a device sent (in a listing, in a reply) is untrusted text until it went through here: what leaves this
module can neither climb out of a folder on the device nor, joined to a folder of the host, write outside of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.errors import InvalidArgumentError

_MAX_PART_BYTES = 255  # NAME_MAX of every file system met here
_MAX_PATH_BYTES = 2048  # well below PATH_MAX, with the work directory before it


@dataclass(frozen=True, order=True)
class RemotePath:
    """A path below the work directory of a device, such as ``runs/1/trace.melt``.

    It is relative and has no ``..``, so no value of this type names anything outside. Every other character is
    allowed, spaces, quotes, newlines and leading dashes too: they are data, and are treated as such.

    Args:
        parts: The names along the way; none at all is the work directory itself.

    Raises:
        InvalidArgumentError: A part is empty, ``.``, ``..``, too long, or holds a slash or a zero byte.
    """

    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            _check_part(part)
        if len(str(self).encode("utf-8", "surrogateescape")) > _MAX_PATH_BYTES:
            raise InvalidArgumentError(f"the path on the device has more than {_MAX_PATH_BYTES} bytes: shorten it")

    @classmethod
    def of(cls, text: str | RemotePath) -> RemotePath:
        """Returns the path that a relative text such as ``"runs/1/trace.melt"`` names.

        Raises:
            InvalidArgumentError: It is absolute, climbs with ``..``, or has a part that no path may have.
        """
        if isinstance(text, RemotePath):
            return text
        if text.startswith("/"):
            raise InvalidArgumentError(f"{text!r} is absolute: give a path below the device's work directory")
        return cls(tuple(text.split("/"))) if text else cls(())

    def __truediv__(self, name: str | RemotePath) -> RemotePath:
        """Returns the path of something below this one."""
        return RemotePath(self.parts + RemotePath.of(name).parts)

    def __str__(self) -> str:
        return "/".join(self.parts)

    @property
    def name(self) -> str:
        """The last part; empty for the work directory itself."""
        return self.parts[-1] if self.parts else ""

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it; the work directory is its own."""
        return RemotePath(self.parts[:-1])

    def with_suffix(self, suffix: str) -> RemotePath:
        """Returns the path beside this one whose name has something appended, cut to what a file system takes."""
        if not self.parts:
            raise InvalidArgumentError("the work directory itself has no name to append to: give a file below it")
        room = _MAX_PART_BYTES - len(suffix.encode())
        stem = self.name.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "surrogateescape")
        return RemotePath((*self.parts[:-1], stem + suffix))

    def on_device(self, work_dir: str) -> str:
        """Returns the absolute path on the device; as it begins with a slash, no program takes it for an option."""
        return "/".join((work_dir.rstrip("/"), *self.parts)) or "/"


def _check_part(part: str) -> None:
    if part in ("", ".", ".."):
        raise InvalidArgumentError(
            f"a path on the device may not have the part {part!r}: it is relative to the work directory and stays in it"
        )
    if "/" in part or "\0" in part:
        raise InvalidArgumentError(f"the name {part!r} holds a slash or a zero byte: no file can be called so")
    try:
        size = len(part.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the name {part!r} is not text: rename the file") from None
    if size > _MAX_PART_BYTES:
        raise InvalidArgumentError(f"the name {part[:32]!r}... has more than {_MAX_PART_BYTES} bytes: shorten it")
