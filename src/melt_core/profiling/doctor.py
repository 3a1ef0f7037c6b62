"""Examines what this machine lets us measure."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from melt_core.runtime.machine import (
    build_info,
    counter_info,
    counter_is_invariant,
    device_info,
    runtime_details,
    runtime_names,
)
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
        *_counters(),
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
        commit = details.get("commit", "")[:12]
        findings.append(Finding(f"runtime {name}", "ok", f"levels tokens, ops{'; commit ' + commit if commit else ''}"))
    return findings


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


def _counters() -> list[Finding]:
    """Returns what level counters would count here, and whether ops can be marked that were disturbed."""
    info = counter_info()
    findings = []
    for kind, subject in (("hardware", "hardware counters"), ("software", "software events")):
        rows = [row for row in info["counters"] if row["kind"] == kind]
        there = [f"{row['name']} ({row['source']})" for row in rows if row["source"]]
        absent: dict[str, list[str]] = {}
        for row in rows:
            if not row["source"]:
                absent.setdefault(row["reason"], []).append(row["name"])
        reasons = [f"{', '.join(names)}: {reason}" for reason, names in absent.items()]
        state = "ok" if not absent else "limited" if there else "absent"
        findings.append(Finding(subject, state, "; ".join([*([", ".join(there)] if there else []), *reasons])))
    reason = info["switches_reason"]
    marked = "level ops marks the ops within which a thread lost its processor"
    findings.append(Finding("disturbed ops", "absent" if reason else "ok", reason or marked))
    return findings


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
