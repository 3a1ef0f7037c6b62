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
    """Does something in another thread as soon as the run is under way."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self._thread: threading.Thread | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and self._thread is None:
            self._thread = threading.Thread(target=self._act)
            self._thread.start()

    def join(self) -> None:
        assert self._thread is not None, "the run was over before anything could go wrong"
        self._thread.join(60)


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
