"""Examines what this machine lets us measure."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from melt_core.errors import MeltError
from melt_core.runtime.machine import build_info, counter_is_invariant, device_info, runtime_details, runtime_names
from melt_core.runtime.mlc import tvm_folders
from melt_core.runtime.session import usable_cpus


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        state: ``ok``, ``limited`` (works, with the restriction in `detail`), or ``absent``.
    """

    subject: str
    state: str
    detail: str


def examine(sysfs: Path = Path("/sys"), procfs: Path = Path("/proc")) -> list[Finding]:
    """Returns what can be measured here, what cannot, and why.

    Args:
        sysfs: Root of the kernel's sysfs, for tests.
        procfs: Root of the kernel's procfs, for tests.
    """
    return [
        _machine(),
        *_runtimes(),
        _counter(),
        _cpus(),
        _frequency(sysfs),
        _memory(procfs),
        _hardware_counters(procfs),
        _energy(sysfs),
        _temperature(sysfs),
    ]


def _machine() -> Finding:
    device, build = device_info(), build_info()
    cpu = device.get("cpu_model", platform.machine())
    return Finding(
        "machine",
        "ok",
        f"{cpu}, {device['os']}; core {build['version']} built by {build['compiler']} "
        f"for {build['instructions']} instructions",
    )


def _runtimes() -> list[Finding]:
    findings = []
    for name in runtime_names():
        details = runtime_details(name)
        if name == "mlc":
            findings.append(_mlc())
            continue
        commit = details.get("commit", "")[:12]
        findings.append(Finding(f"runtime {name}", "ok", f"levels tokens, ops{'; commit ' + commit if commit else ''}"))
    return findings


def _mlc() -> Finding:
    try:
        folders = tvm_folders()
    except MeltError as error:
        return Finding("runtime mlc", "absent", str(error))
    return Finding("runtime mlc", "ok", f"levels tokens, ops; TVM in {folders or os.environ['MELT_TVM_PATH']}")


def _counter() -> Finding:
    if counter_is_invariant():
        return Finding("cycle counter", "ok", "invariant; op times have its resolution")
    return Finding("cycle counter", "limited", "not invariant: op times drift with the core's frequency")


def _cpus() -> Finding:
    usable, load = usable_cpus(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = usable - load
    if free < 1:
        return Finding(
            "CPUs",
            "limited",
            f"{usable} usable, but the load is {load:.1f}: threads that spin in a "
            "barrier will wait for each other; end other work first",
        )
    return Finding("CPUs", "ok", f"{usable} usable, load {load:.1f}")


def _frequency(sysfs: Path) -> Finding:
    policy = sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    try:
        governor = policy.read_text().strip()
    except OSError:
        return Finding("CPU frequency", "absent", f"{policy} is not there: a virtual machine, or a kernel without it")
    if governor != "performance":
        return Finding(
            "CPU frequency",
            "limited",
            f'governor "{governor}" changes it during a run; "performance" gives steadier numbers',
        )
    return Finding("CPU frequency", "ok", 'governor "performance"')


def _memory(procfs: Path) -> Finding:
    available = psutil.virtual_memory().available
    if not (procfs / "self/status").exists():
        return Finding("memory", "limited", f"{available / 2**30:.1f} GiB available; the peak comes from getrusage")
    return Finding("memory", "ok", f"{available / 2**30:.1f} GiB available; process peak from /proc (VmHWM)")


def _hardware_counters(procfs: Path) -> Finding:
    setting = procfs / "sys/kernel/perf_event_paranoid"
    if not setting.exists():
        return Finding("hardware counters", "absent", "this kernel has no perf events")
    return Finding("hardware counters", "absent", "not read by this version (level counters)")


def _energy(sysfs: Path) -> Finding:
    sources = [name for name in ("powercap", "hwmon", "power_supply") if _has_entries(sysfs / "class" / name)]
    if not sources:
        return Finding("energy", "absent", "no powercap, hwmon or power_supply in /sys/class")
    return Finding("energy", "absent", f"{', '.join(sources)} present, but not read by this version")


def _temperature(sysfs: Path) -> Finding:
    if not _has_entries(sysfs / "class/thermal"):
        return Finding("temperature", "absent", "no thermal zones in /sys/class/thermal")
    return Finding("temperature", "absent", "thermal zones present, but not read by this version")


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
