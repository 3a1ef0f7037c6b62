"""Which devices there are and how they are: this host, what adb and pymobiledevice3 list, ssh hosts used before.

Each is asked in a thread of its own, so that one that hangs holds up no other; what cannot be asked is listed with why.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from melt_core.devices.device import Device, connect
from melt_core.devices.journal import Journal
from melt_core.devices.probe import TIMEOUT_S, DeviceInfo, Observation
from melt_core.devices.state_dir import host_id, read_json, state_dir, write_json
from melt_core.errors import MeltError
from melt_core.transports import AdbDevice, IosTransport, LocalTransport, RemotePath, list_adb_devices

_KNOWN = "devices.json"
_MOST_KNOWN = 64
_HOT_SITES = ("skin", "soc", "cpu", "battery")
_LEASE = RemotePath.of("lease.json")


@dataclass(frozen=True)
class Listed:
    """A device as it is listed; None where it does not say.

    Attributes:
        state: ``ready``, ``in use by HOST``, adb's word (``offline``, ``unauthorized``), or ``unreachable``.
        why: Why it is not ready, or what could not be read.
    """

    uri: str
    state: str
    model: str | None = None
    soc: str | None = None
    os: str | None = None
    n_cpus: int | None = None
    mem_total_bytes: float | None = None
    mem_available_bytes: float | None = None
    battery_ratio: float | None = None
    temperature_c: float | None = None
    open_runs: int = 0
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Discovery:
    """The devices that were found, and what could not be looked for."""

    devices: tuple[Listed, ...]
    not_searched: tuple[str, ...]


def discover(
    *, uris: Sequence[str] = (), adb_devices: Callable[[], Sequence[AdbDevice]] = list_adb_devices
) -> Discovery:
    """Returns the devices that are attached or known; with `uris`, those alone.

    Starts no agent and leaves nothing on a device but an empty work directory.
    """
    notes: list[str] = []
    found: list[Listed | str] = (
        list(uris) if uris else ["local", *_adb(adb_devices, notes), *_ios(notes), *known_uris()]
    )
    with ThreadPoolExecutor(max_workers=8) as pool:
        listed = list(pool.map(lambda one: one if isinstance(one, Listed) else describe(one), found))
    return Discovery(tuple(listed), tuple(notes))


def describe(uri: str) -> Listed:
    """Returns a device as it is listed; never fails: what goes wrong is its state."""
    try:
        with connect(uri) as device:
            # Listing is to be quick: nothing is tried twice here.
            info = device.probe.info()
            return _listed(device, info, device.probe.observe())
    except MeltError as error:
        return Listed(uri, "unreachable", why=str(error)[:300])


def remember(uri: str) -> None:
    """Keeps an ssh host for later listings: nothing else can tell of it."""
    if not uri.startswith("ssh:"):
        return
    known = [one for one in known_uris() if one != uri]
    write_json(state_dir() / _KNOWN, [uri, *known][:_MOST_KNOWN])


def known_uris() -> list[str]:
    """Returns the ssh hosts that were used before, the last used first."""
    known = read_json(state_dir() / _KNOWN)
    return [uri for uri in known if isinstance(uri, str) and uri.startswith("ssh:")] if isinstance(known, list) else []


def forget(uri: str) -> None:
    """Forgets an ssh host."""
    write_json(state_dir() / _KNOWN, [one for one in known_uris() if one != uri])


def _adb(adb_devices: Callable[[], Sequence[AdbDevice]], notes: list[str]) -> list[Listed | str]:
    try:
        devices = adb_devices()
    except MeltError as error:
        notes.append(f"adb: {error}")
        return []
    found: list[Listed | str] = []
    for one in devices:
        uri = f"adb:{one.serial}"
        if one.state == "device":
            found.append(uri)
        else:
            hint = {"unauthorized": "allow USB debugging on its screen", "offline": "plug it in again"}.get(one.state)
            found.append(Listed(uri, one.state, model=one.model, why=hint))
    return found


def _ios(notes: list[str]) -> list[Listed | str]:
    """Returns what ``pymobiledevice3 usbmux list`` lists; it is a program of its own and may not be there."""
    if shutil.which("pymobiledevice3") is None:
        notes.append("ios: the program pymobiledevice3 is not on the path")
        return []
    try:
        result = LocalTransport().run(
            ["pymobiledevice3", "usbmux", "list"], timeout_s=TIMEOUT_S, max_output_bytes=1 << 20
        )
        values = json.loads(result.text)
    except (MeltError, ValueError, RecursionError) as error:
        notes.append(f"ios: pymobiledevice3 gave no list: {error}")
        return []
    found: list[Listed | str] = []
    for one in values if isinstance(values, list) else []:
        fields = one if isinstance(one, dict) else {}
        name = fields.get("UniqueDeviceID") or fields.get("Identifier")
        if isinstance(name, str):
            version = str(fields.get("ProductVersion") or "")[:32]
            found.append(Listed(f"ios:{name[:64]}", "ready", str(fields.get("ProductType"))[:64], os=f"iOS {version}"))
    return found


def _listed(device: Device, info: DeviceInfo, seen: Observation) -> Listed:
    def number(site: str, kind: str) -> float | None:
        value = seen.readout.value(site, kind)
        return None if math.isnan(value) else value

    temperatures = [value for site in _HOT_SITES if (value := number(site, "temperature")) is not None]
    holder = _lease_holder(device)
    return Listed(
        uri=device.uri,
        state="ready" if holder is None else f"in use by {holder}",
        model=info.model,
        soc=info.soc,
        os=info.os,
        n_cpus=info.n_cpus,
        mem_total_bytes=info.mem_total_bytes,
        mem_available_bytes=number("mem", "available"),
        battery_ratio=number("battery", "charge_share"),
        temperature_c=max(temperatures, default=None),
        open_runs=sum(entry.uri == device.uri for entry in Journal().entries()),
    )


def _lease_holder(device: Device) -> str | None:
    """Returns the other host that has the device, by the lease file; its end is on a clock that goes on in sleep."""
    if isinstance(device.transport, IosTransport):
        return None  # only its agent could say, and that would have to be launched
    paths = [device.transport.resolve(_LEASE), "/proc/uptime"]
    lease, uptime = (
        device.transport.run(["cat", path], timeout_s=TIMEOUT_S, max_output_bytes=1 << 16) for path in paths
    )
    if lease.exit_code != 0 or uptime.exit_code != 0:
        return None
    try:
        values = json.loads(lease.text)
        left_s = float(values["expires_ns"]) / 1e9 - float(uptime.text.split()[0])
        holder = str(values["host"])[:64]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return holder if left_s > 0 and holder != host_id() else None
