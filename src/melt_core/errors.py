"""What can go wrong, in terms of who can put it right.

The tree mirrors ``melt::ErrorKind`` of the C++ core (cpp/include/melt/error.h), so that an error keeps its kind on
the way from the core to Python and, later, from an agent to its host. Every message says what failed and what to try.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class MeltError(Exception):
    """Base of every error that melt_core raises on purpose."""

    #: What the ``melt`` command exits with when this error reaches it.
    exit_code: int = 1


class InvalidArgumentError(MeltError, ValueError):
    """The caller asked for something that cannot be."""

    exit_code = 2


class ModelError(MeltError):
    """The model file is missing, damaged or not supported."""


class OutOfMemoryError(MeltError, MemoryError):
    """Weights, context or buffers do not fit."""


class RuntimeFailedError(MeltError):
    """The inference runtime failed or aborted."""


class TraceError(MeltError):
    """A trace is damaged, cut short beyond use, or of a newer format."""


class StorageError(MeltError, OSError):
    """The operating system refused a read or a write."""

    @classmethod
    def from_os_error(cls, action: str, path: str, error: OSError) -> StorageError:
        """Words an operating system error in one line and keeps its ``errno``.

        Args:
            action: What was tried, such as ``"write"``.
            path: The file it was tried on.
            error: What the system said.
        """
        made = cls(f"cannot {action} {path}: {error.strerror or error}")
        made.errno = error.errno
        made.filename = path
        return made

    def __str__(self) -> str:
        """Returns the message; OSError would put its errno in the place of it."""
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class BusyError(MeltError):
    """The model is in use by another thread."""


class CancelledError(MeltError):
    """The caller cancelled."""


class DeviceError(MeltError):
    """A device, or the way to it, refuses; the same call again will fail again."""


class TransientDeviceError(DeviceError):
    """A device is out of reach, busy or too slow right now; the same call again may succeed."""


class DeviceBusyError(TransientDeviceError):
    """Another host has the device; the message names it and says until when."""


class TelemetryError(DeviceError):
    """What a device said about itself is not of the format it should be; the rest of the run is not touched."""


class MissingExtraError(MeltError, ImportError):
    """A package is not installed that belongs to one of melt_core's optional extras."""

    def __init__(self, package: str, *, extra: str) -> None:
        """Names the package that is missing and the extra that brings it."""
        super().__init__(f"this needs {package}, which is not installed: pip install 'melt_core[{extra}]'")
        self.package = package
        self.extra = extra


#: ``melt::ErrorKind`` number to class, for the layer that binds the core. Stored values: none is ever reused.
ERROR_BY_KIND: Mapping[int, type[MeltError]] = MappingProxyType(
    {
        1: InvalidArgumentError,
        2: ModelError,
        3: OutOfMemoryError,
        4: RuntimeFailedError,
        5: TraceError,
        6: StorageError,
        7: BusyError,
        8: CancelledError,
    }
)
