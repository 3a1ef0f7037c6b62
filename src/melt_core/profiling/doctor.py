"""Examines what this machine lets us measure."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from melt_core.errors import MeltError
from melt_core.report import human
from melt_core.runtime.machine import (
    build_info,
    counter_info,
    counter_is_invariant,
    device_info,
    runtime_details,
    runtime_names,
    sensors,
)
from melt_core.runtime.mlc import tvm_folders
from melt_core.runtime.session import usable_cpus

#: Channels of one sensor that are named.
MAX_CHANNELS = 12
#: Of every runtime; what level counters can count has findings of its own.
_LEVELS = "levels tokens, ops, memory"


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
        sysfs: Root of the kernel's sysfs, for tests; sensors are looked for below MELT_SYSFS_ROOT.
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
        *_sensors(),
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
        findings.append(Finding(f"runtime {name}", "ok", f"{_LEVELS}{'; commit ' + commit if commit else ''}"))
    return findings


def _mlc() -> Finding:
    try:
        folders = tvm_folders()
    except MeltError as error:
        return Finding("runtime mlc", "absent", str(error))
    return Finding("runtime mlc", "ok", f"{_LEVELS}; TVM in {folders or os.environ['MELT_TVM_PATH']}")


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
    available = human.size_bytes(psutil.virtual_memory().available)
    if not (procfs / "self/status").exists():
        return Finding("memory", "limited", f"{available} available; the peak comes from getrusage")
    return Finding("memory", "ok", f"{available} available; process peak from /proc (VmHWM)")


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


def _sensors() -> list[Finding]:
    """One finding for each kind of sensor: what it gives, or why there is none."""
    findings = []
    for sensor in sensors():
        reasons = "; ".join(f"{what}: {why}" for what, why in sensor.absent.items())
        if not sensor.channels:
            detail = sensor.absent.get(sensor.name, reasons)
            findings.append(Finding(f"sensor {sensor.name}", "absent", detail))
            continue
        shown = ", ".join(sensor.channels[:MAX_CHANNELS])
        if len(sensor.channels) > MAX_CHANNELS:
            shown += f" and {len(sensor.channels) - MAX_CHANNELS} more"
        detail = f"{shown}; up to {sensor.max_rate_hz:g} Hz"
        state = "limited" if reasons else "ok"
        findings.append(
            Finding(f"sensor {sensor.name}", state, f"{detail}; not read: {reasons}" if reasons else detail)
        )
    return findings
