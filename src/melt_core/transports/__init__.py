"""How bytes and commands reach a device: local, adb, ssh, ios. The interface is in ``base``.

Nothing is imported or contacted before a transport is made and used; ``adb`` and ``ssh`` need the extras of these
names.
"""

from __future__ import annotations

from melt_core.transports.base import Cancel as Cancel
from melt_core.transports.base import LineChannel as LineChannel
from melt_core.transports.base import RemoteFile as RemoteFile
from melt_core.transports.base import RunResult as RunResult
from melt_core.transports.base import Transfer as Transfer
from melt_core.transports.base import Transport as Transport
from melt_core.transports.local import LocalTransport as LocalTransport
from melt_core.transports.paths import RemotePath as RemotePath

__all__ = [
    "Cancel",
    "LineChannel",
    "LocalTransport",
    "RemoteFile",
    "RemotePath",
    "RunResult",
    "Transfer",
    "Transport",
]
