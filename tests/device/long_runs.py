"""Runs that last long enough for something to go wrong in them, and what has to be left of them afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from melt_core.devices import GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.trace import Trace

LONG = {
    "prompt_tokens": 8, "max_tokens": 400, "repeats": 12, "warmup": 0, "n_ctx": 512, "n_threads": 1,
    "overhead_budget_s": 0.0, "levels": ["tokens"],
}  # fmt: skip
MEASUREMENT = Measurement(LONG, limits=GateLimits(wait_s=0), telemetry_s=0.2, patience=Patience(30, 40.0))


class Once:
    """Does something in another thread as soon as the run is under way, or has finished some repetitions."""

    def __init__(self, act: Any, *, repetitions: int = 0) -> None:
        self._act = act
        self._repetitions = repetitions
        self._failed: list[Exception] = []
        self._thread: threading.Thread | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] >= self._repetitions and self._thread is None:
            self._thread = threading.Thread(target=self._guarded)
            self._thread.start()

    def _guarded(self) -> None:
        try:
            self._act()
        except Exception as error:
            self._failed.append(error)

    def join(self, timeout_s: float = 60) -> None:
        assert self._thread is not None, "the run was over before anything could go wrong"
        self._thread.join(timeout_s)
        assert not self._failed, self._failed


def once_running(act: Any) -> Any:
    """Returns what does something, in the thread that is told, once a repetition is finished."""
    done: list[int] = []

    def call(event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] >= 1 and not done:
            done.append(1)
            act()

    return call


def check_whole(trace: Trace, n_runs: int = 12) -> None:
    assert trace.complete
    assert not trace.damage
    assert len(trace.runs) == n_runs
    assert "clock_alignment" in trace.metadata
    assert not Journal().entries()


def run_process(work: Path, run: str) -> int:
    """Returns the process id that the status of a run names."""
    pid: int = json.loads((work / "runs" / run / "status.json").read_text())["pid"]
    return pid
