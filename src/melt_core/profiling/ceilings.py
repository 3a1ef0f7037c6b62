"""Measures this machine's ceilings, and keeps them in the user's cache folder.

Example:
    >>> from melt_core.profiling.ceilings import load_ceilings, measure_ceilings, save_ceilings
    >>> ceilings = load_ceilings().ceilings  # None where none are kept; `reason` then says why
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from melt_core.analysis.ceilings import FLOPS, READ_BANDWIDTH, AbsentCeiling, Ceiling, Ceilings
from melt_core.cache import cache_dir
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.runtime.ceilings import RawCeilings, measure_raw
from melt_core.runtime.machine import build_info, device_info

#: Microcode, firmware and neighbours of a virtual machine change.
_MAX_AGE = timedelta(days=90)
#: Median / best of an undisturbed measurement; on an idle virtual machine all are above 0.9.
_STEADY_RATIO = 0.8
_FREQUENCY = "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"


@dataclass(frozen=True)
class LoadedCeilings:
    """What the cache gave. `ceilings` is None where there is nothing that may be used, and `reason` says why."""

    ceilings: Ceilings | None
    path: Path
    reason: str | None


def measure_ceilings(
    *,
    thread_counts: Sequence[int] | None = None,
    pin_threads: bool = True,
    huge_pages: bool = True,
    sequential_reads: bool = False,
    measurement_s: float = 0.15,
    max_memory_bytes: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
    sysfs: Path = Path("/sys"),
) -> Ceilings:
    """Measures read bandwidth and arithmetic rates; on two CPUs in about ten seconds, all of them busy.

    Args:
        thread_counts: How many threads to measure with; default 1 to the number of usable CPUs, thinned out above 8.
        pin_threads: Whether to keep each thread on a CPU of its own.
        huge_pages: Whether to ask for huge pages, which need fewer page walks; mapped model files have small ones.
        sequential_reads: Whether to read with the widest loads, address after address, as most tools do; else the
            fastest of several widths and orders counts.
        measurement_s: Seconds of timed rounds for each measurement.
        max_memory_bytes: Limit of the largest working set; default a quarter of the free memory, at most 2 GiB.
        on_progress: Called with a label and the share done; what it raises ends the measurement, and is raised.
        sysfs: Root of the kernel's sysfs, for tests.

    Raises:
        InvalidArgumentError: A thread count that this machine cannot have, or a time out of range.
        OutOfMemoryError: The working set cannot be had.
        RuntimeFailedError: Threads cannot be started, or a kernel's result was wrong.
    """
    raw = measure_raw(
        thread_counts=list(thread_counts or ()),
        pin_threads=pin_threads,
        huge_pages=huge_pages,
        sequential_reads=sequential_reads,
        measurement_s=measurement_s,
        max_memory_bytes=max_memory_bytes or 0,
        on_progress=on_progress,
    )
    frequency_hz, missing = _frequency(sysfs)
    device, measured = device_info(), _measured(raw)
    return Ceilings(
        cpu_model=_cpu_model(),
        core_version=str(build_info()["version"]),
        hostname=str(device["hostname"]),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        frequency_hz=frequency_hz,
        pinned=raw.pinned,
        read_instructions=raw.read_instructions,
        ceilings=measured,
        absent=tuple(AbsentCeiling(kind, name, reason, n or None) for kind, name, n, reason in raw.absent),
        notes=(*_disturbance(measured), *raw.notes, *missing),
    )


def _measured(raw: RawCeilings) -> tuple[Ceiling, ...]:
    units = {READ_BANDWIDTH: "B/s", FLOPS: "flop/s"}
    return tuple(
        Ceiling(
            kind=row.kind,
            family=row.name,
            working_set_bytes=row.working_set_bytes if row.kind == READ_BANDWIDTH else None,
            n_threads=row.n_threads,
            value=row.best,
            unit=units[row.kind],
            median=row.median,
            best=row.best,
            n=row.n_rounds,
        )
        for row in raw.ceilings
    )


def _disturbance(rows: tuple[Ceiling, ...]) -> tuple[str, ...]:
    """Returns a note where rounds differ so much that other work must have been going on."""
    disturbed = sum(row.median < _STEADY_RATIO * row.best for row in rows)
    if not disturbed:
        return ()
    return (
        f"disturbed: {disturbed} of {len(rows)} medians lie below {_STEADY_RATIO:.0%} of their best round; other work "
        "was running, and the best rounds may be too low as well: measure again on an idle machine",
    )


def _cpu_model() -> str:
    return str(device_info().get("cpu_model") or f"{platform.machine()} (model not stated by the system)")


def _frequency(sysfs: Path) -> tuple[float | None, tuple[str, ...]]:
    path = sysfs / _FREQUENCY
    try:
        return float(path.read_text()) * 1e3, ()
    except (OSError, ValueError):
        return None, (f"frequency unknown: {path} is not there (virtual machine, or a kernel without cpufreq)",)


def cache_path() -> Path:
    """Returns where this machine's ceilings are kept: a file for each CPU model and core version."""
    key = f"{_cpu_model()}\n{build_info()['version']}"
    return cache_dir() / f"ceilings-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def save_ceilings(ceilings: Ceilings, path: Path | None = None) -> Path:
    """Writes them, whole or not at all, to `path` or to `cache_path()`; returns the path.

    Raises:
        StorageError: The system refused to write.
    """
    path = path or cache_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(ceilings.to_json() + "\n")
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise StorageError.from_os_error("write", str(path), error) from error
    return path


def load_ceilings(path: Path | None = None, *, now: datetime | None = None) -> LoadedCeilings:
    """Returns the ceilings kept for this machine, or why there are none to be used.

    Those of another CPU, host or core version, those older than 90 days, and a damaged file are not used.

    Args:
        path: A file, by default `cache_path()`.
        now: The time to judge the age by; default the system's.
    """
    path = path or cache_path()
    try:
        ceilings = Ceilings.from_json(path.read_text(encoding="utf-8"))
        reason = _unfit(ceilings, now or datetime.now(timezone.utc))
    except FileNotFoundError:
        return LoadedCeilings(None, path, "no ceilings measured on this machine yet")
    except OSError as error:
        return LoadedCeilings(None, path, f"cannot read {path}: {error.strerror or error}")
    except (InvalidArgumentError, UnicodeDecodeError, ValueError, TypeError) as error:
        return LoadedCeilings(None, path, f"{path} is damaged: {error}")
    return LoadedCeilings(None if reason else ceilings, path, reason)


def _unfit(ceilings: Ceilings, now: datetime) -> str | None:
    own = {
        "cpu_model": _cpu_model(),
        "core_version": str(build_info()["version"]),
        "hostname": str(device_info()["hostname"]),
    }
    for field, value in own.items():
        kept = getattr(ceilings, field)
        if kept != value:
            return f"the ceilings kept are of {field} {kept!r}, and this is {value!r}"
    measured_at = datetime.fromisoformat(ceilings.measured_at)
    age = now - measured_at
    if age > _MAX_AGE:
        return f"the ceilings kept are {age.days} days old"
    if age < -timedelta(days=1):
        return f"the ceilings kept are dated {ceilings.measured_at}, which is in the future"
    return None
