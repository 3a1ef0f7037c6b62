"""How bytes and commands reach a device: local, adb, ssh, ios. The interface is in ``base``.

Nothing is imported or contacted before a transport is made and used; ``adb`` and ``ssh`` need the extras of these
names.
"""

from __future__ import annotations

from melt_core.transports.adb import AdbTransport as AdbTransport
from melt_core.transports.adb_wire import AdbDevice as AdbDevice
from melt_core.transports.adb_wire import AdbServer as AdbServer
from melt_core.transports.adb_wire import list_adb_devices as list_adb_devices
from melt_core.transports.base import Cancel as Cancel
from melt_core.transports.base import LineChannel as LineChannel
from melt_core.transports.base import RemoteFile as RemoteFile
from melt_core.transports.base import RunResult as RunResult
from melt_core.transports.base import Transfer as Transfer
from melt_core.transports.base import Transport as Transport
from melt_core.transports.ios import IosTransport as IosTransport
from melt_core.transports.local import LocalTransport as LocalTransport
from melt_core.transports.paths import RemotePath as RemotePath
from melt_core.transports.ssh import SshAddress as SshAddress
from melt_core.transports.ssh import SshTransport as SshTransport

__all__ = [
    "AdbDevice",
    "AdbServer",
    "AdbTransport",
    "Cancel",
    "IosTransport",
    "LineChannel",
    "LocalTransport",
    "RemoteFile",
    "RemotePath",
    "RunResult",
    "SshAddress",
    "SshTransport",
    "Transfer",
    "Transport",
    "list_adb_devices",
]
