"""What a device is and how it is right now, read through its transport with the device's own programs.

    uname, getprop -> who it is          find + grep -> a snapshot of /sys and /proc -> telemetry parsers

Works without the agent, so that `melt devices` can describe a device that has never been used. Each command is an
argument list of constants; what is not there is absent with its reason.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from melt_core.devices.agents import Platform
from melt_core.devices.telemetry import (
    FileTree,
    LocalTree,
    Readout,
    cpufreq,
    dumpsys_battery,
    dumpsys_cpuinfo,
    dumpsys_power,
    ina238,
    ina3221,
    ios_json,
    memory,
    merged,
    nvpmodel,
    odpm,
    power_supply,
    snapshot_of,
    tegrastats,
    thermal_zones,
    thermalservice,
)
from melt_core.devices.telemetry.base import Absent
from melt_core.errors import MeltError, TelemetryError, TransientDeviceError
from melt_core.transports import IosTransport, LocalTransport, Transport

TIMEOUT_S = 15.0
_MAX_OUTPUT_BYTES = 4 << 20
_MOST_FILES = 2000
_PROPERTY = re.compile(r"^\[([^\[\]]{1,128})\]: \[([^\[\]]{0,256})\]$")

#: Folder, how deep below it, names of the files that the parsers read.
_FOLDERS = (
    (power_supply.ROOT, 2, power_supply.FILES),
    (thermal_zones.ROOT, 2, thermal_zones.FILES),
    (cpufreq.ROOT, 2, cpufreq.FILES),
    (odpm.ROOT, 2, odpm.FILES),
    (ina3221.HWMON_ROOT, 4, ("in*_label", "in*_input", "curr*_input")),
    (ina3221.IIO_ROOT, 3, ("rail_name_*", "in_*_input")),
    (ina238.ROOT, 2, ina238.FILES),
)
#: ``dumpsys cpuinfo`` is about a window of seconds, and costs the device more than the others together.
_CPUINFO_EVERY = 10
_PROC_FILES = ("/proc/meminfo", "/proc/cpuinfo", "/proc/device-tree/model", "/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class DeviceInfo:
    """Who a device is; None where it does not say."""

    platform: Platform
    model: str | None
    soc: str | None
    os: str
    n_cpus: int | None
    mem_total_bytes: float | None

    @property
    def is_android(self) -> bool:
        """Whether Android's services are there."""
        return self.platform.system == "android"


@dataclass(frozen=True)
class Observation:
    """What a device said of itself at one time of the host's steady clock."""

    host_ns: int
    round_trip_ns: int
    readout: Readout
    governors: tuple[str, ...] = ()


@dataclass
class Probe:
    """Asks one device. `files` are those that there are, found once."""

    transport: Transport
    _info: DeviceInfo | None = field(default=None, init=False)
    _files: list[str] | None = field(default=None, init=False)
    _has_tegrastats: bool | None = field(default=None, init=False)
    _n_observed: int = field(default=0, init=False)

    def info(self) -> DeviceInfo:
        """Returns who the device is; asked once.

        Raises:
            TransientDeviceError: The device is out of reach.
            DeviceError: It does not answer to uname.
        """
        if self._info is None:
            is_ios = isinstance(self.transport, IosTransport)
            unknown = DeviceInfo(Platform("ios", "arm64"), None, None, "iOS", None, None)
            self._info = unknown if is_ios else _describe(self)
        return self._info

    def observe(self, *, for_gates: bool = False) -> Observation:
        """Returns how the device is now. What fails is absent with its reason; only a lost device is an error.

        Args:
            for_gates: Also what is only looked at before a run, as it takes the device longer: the screen.
        """
        began = time.monotonic_ns()
        if isinstance(self.transport, IosTransport):
            readout = _ios_readout(self.transport)
            return Observation((began + time.monotonic_ns()) // 2, time.monotonic_ns() - began, readout)
        tree = self.snapshot()
        readouts = [
            _guarded(name, lambda parse=parse: parse(tree))
            for name, parse in (
                ("power_supply", power_supply.parse),
                ("thermal zones", thermal_zones.parse),
                ("cpufreq", cpufreq.parse),
                ("ODPM", odpm.parse),
                ("INA3221", ina3221.parse),
                ("INA238", ina238.parse),
                ("meminfo", lambda files: memory.parse_meminfo(files.read("/proc/meminfo") or "")),
            )
        ]
        if self.info().is_android:  # the services first: they know units and names better than the drivers
            readouts[:0] = [
                self._ask(dumpsys_battery.COMMAND, dumpsys_battery.parse),
                self._ask(thermalservice.COMMAND, thermalservice.parse),
            ]
            readouts += self._asked_seldom(for_gates=for_gates)
        elif self._is_jetson():
            readouts.append(self._ask(tegrastats.COMMAND, tegrastats.parse))
        self._n_observed += not for_gates
        ended = time.monotonic_ns()
        governors = {policy.governor for policy in cpufreq.policies(tree) if policy.governor}
        middle = (began + ended) // 2
        return Observation(middle, ended - began, merged(readouts), tuple(sorted(governors)))

    def _asked_seldom(self, *, for_gates: bool) -> list[Readout]:
        """Returns what Android's dearer services say."""
        found = [self._ask(dumpsys_power.COMMAND, dumpsys_power.parse)] if for_gates else []
        if self._n_observed % _CPUINFO_EVERY == 1:  # not at once: whoever asks but once lists devices
            found.append(self._ask(dumpsys_cpuinfo.COMMAND, dumpsys_cpuinfo.parse))
        return found

    def _is_jetson(self) -> bool:
        """Returns whether there is a tegrastats; asked once."""
        if self._has_tegrastats is None:
            argv = ["sh", "-c", "command -v tegrastats"]
            self._has_tegrastats = self.transport.run(argv, timeout_s=TIMEOUT_S).exit_code == 0
        return self._has_tegrastats

    def power_mode(self) -> nvpmodel.PowerMode | None:
        """Returns a Jetson's power mode; None elsewhere."""
        try:
            result = self.transport.run(list(nvpmodel.COMMAND), timeout_s=TIMEOUT_S, max_output_bytes=1 << 16)
            return nvpmodel.parse(result.text) if result.exit_code == 0 else None
        except TransientDeviceError:
            raise
        except MeltError:
            return None

    def snapshot(self) -> FileTree:
        """Returns the device's small files that parsers read, as they are now."""
        if isinstance(self.transport, LocalTransport):
            return LocalTree()
        if self._files is None:
            self._files = [path for folder in _FOLDERS for path in self._find(*folder)][:_MOST_FILES]
        paths = [*_PROC_FILES, *self._files]
        result = self.transport.run(
            ["grep", "-sH", "", *paths], timeout_s=TIMEOUT_S, max_output_bytes=_MAX_OUTPUT_BYTES
        )
        return snapshot_of(result.text, paths)

    def _find(self, root: str, depth: int, names: tuple[str, ...]) -> list[str]:
        # -L, as /sys/class is made of links; an option of find's own for each name, nothing for a shell to look at
        wanted: list[str] = []
        for name in names:
            wanted += ["-o", "-name", name.rpartition("/")[2]]
        argv = ["find", "-L", root, "-maxdepth", str(depth + 1), "-type", "f", "(", *wanted[1:], ")"]
        result = self.transport.run(argv, timeout_s=TIMEOUT_S, max_output_bytes=_MAX_OUTPUT_BYTES)
        return sorted({line for line in result.text.splitlines() if line.startswith(f"{root}/") and len(line) < 512})

    def _ask(self, command: tuple[str, ...], parse: object) -> Readout:
        def call() -> Readout:
            result = self.transport.run(list(command), timeout_s=TIMEOUT_S, max_output_bytes=_MAX_OUTPUT_BYTES)
            if result.exit_code != 0:
                raise TelemetryError(f"{' '.join(command)} ended with exit code {result.exit_code}")
            return parse(result.text)  # type: ignore[operator, no-any-return]

        return _guarded(" ".join(command), call)


def _ios_readout(transport: IosTransport) -> Readout:
    def call() -> Readout:
        text = transport.call(["diagnostics", "battery", "single"], timeout_s=TIMEOUT_S).text
        return ios_json.parse(" ".join(text.split()))

    return _guarded("pymobiledevice3 diagnostics battery", call)


def _guarded(name: str, call: object) -> Readout:
    try:
        return call()  # type: ignore[operator, no-any-return]
    except TransientDeviceError:
        raise
    except MeltError as error:
        return Readout(absent=(Absent(name, str(error)[:300]),))


def _describe(probe: Probe) -> DeviceInfo:
    transport = probe.transport
    named = transport.run(["uname", "-s", "-m", "-r"], timeout_s=TIMEOUT_S, max_output_bytes=1 << 16).text.split()
    system, release, machine = (named + ["unknown"] * 3)[:3]
    properties = _properties(transport)
    android = properties.get("ro.build.version.release")
    tree = probe.snapshot()
    cpuinfo = tree.read("/proc/cpuinfo") or ""
    totals = re.search(r"^MemTotal:\s*(\d{1,15}) kB$", tree.read("/proc/meminfo") or "", re.MULTILINE)
    return DeviceInfo(
        platform=Platform("android" if android else system.lower()[:32], machine[:32]),
        model=_model(properties, tree, cpuinfo),
        soc=properties.get("ro.soc.model") or properties.get("ro.hardware"),
        os=f"Android {android} (Linux {release})" if android else f"{system} {release}"[:128],
        n_cpus=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        mem_total_bytes=float(totals[1]) * 1024 if totals else None,
    )


def _properties(transport: Transport) -> dict[str, str]:
    result = transport.run(["getprop"], timeout_s=TIMEOUT_S, max_output_bytes=1 << 20)
    if result.exit_code != 0:
        return {}
    entries = (_PROPERTY.match(line.strip()) for line in result.text.splitlines())
    return {entry[1]: entry[2] for entry in entries if entry and entry[2]}


def _model(properties: dict[str, str], tree: FileTree, cpuinfo: str) -> str | None:
    if "ro.product.model" in properties:
        maker = properties.get("ro.product.manufacturer", "")
        return f"{maker} {properties['ro.product.model']}".strip()[:128]
    board = (tree.read("/proc/device-tree/model") or "").replace("\0", "").strip()
    if board:
        return board[:128]
    name = re.search(r"^model name\s*:\s*(.{1,120})$", cpuinfo, re.MULTILINE)
    return name[1] if name else None
