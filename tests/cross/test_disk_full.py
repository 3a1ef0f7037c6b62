"""A full disk under the agent: the run fails with its reason, and what was measured before can be brought back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import melt_core as melt
from fakes.needs import lacking

from .conftest import Connection

DISK_BYTES = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.name != "posix" or os.geteuid() != 0:
        lacking("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lacking(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_what_was_measured_before_is_kept(small_disk: Path, host_agent: Path) -> None:
    request = {
        "model": "layers=4,op_ns=20000",
        "runtime": "synthetic",
        "prompt": "Hello",
        "max_tokens": 20,
        "repeats": 10000,
        "n_threads": 1,
        "overhead_budget_s": 0,
        "sensors": ["none"],
    }
    with Connection([str(host_agent)], small_disk / "work") as device:
        device.ask("start", run="r", request=request)
        status = device.wait("r")
        listed = device.ask("runs")["runs"]
        hashed = device.ask("hash", path="runs/r/trace.melt")
    assert status["state"] == "failed", status
    assert status["error"]["kind"] == "StorageError"
    assert "No space left" in status["error"]["message"]
    assert status["repetition"] > 3
    assert listed == [{"run": "r", "state": "failed", "trace_bytes": status["trace_bytes"]}]
    assert (hashed["sha256"], hashed["bytes"]) == (status["trace_sha256"], status["trace_bytes"])
    trace = melt.Trace.open(small_disk / "work/runs/r/trace.melt")
    assert len(trace.runs) >= 3
    assert trace.tokens["token_id"].min() >= 0
