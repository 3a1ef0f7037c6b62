"""The host goes or fails while a run is measured on a device: the run is taken up again, or ends as was asked."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melt_core.devices import Device
from melt_core.devices.journal import Journal
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.trace import Trace
from melt_core.transports import LocalTransport

from .long_runs import LONG, MEASUREMENT, Once, check_whole


def test_host_killed_during_the_run_and_started_again(state: Path, tiny_llama: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from melt_core.devices import Device, GateLimits, Measurement
        from melt_core.transports import LocalTransport
        import json
        work, model, output, request = sys.argv[1:]
        measurement = Measurement(json.loads(request), limits=GateLimits(wait_s=0), telemetry_s=0.2)
        with Device(LocalTransport(Path(work))) as device:
            device.measure(model, measurement, output=output, on_event=lambda event: print(event["event"], flush=True))
    """)
    arguments = [str(tmp_path / "work"), str(tiny_llama), str(tmp_path / "x.melt"), json.dumps({**LONG, "repeats": 30})]
    host = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    while "repetition" not in host.stdout.readline():
        assert host.poll() is None
    (entry,) = Journal().entries()
    while not (seen := [line for line in Journal().notes(entry.run) if "readings" in line]):
        assert host.poll() is None
        time.sleep(0.02)
    host.kill()
    host.wait(10)
    host.stdout.close()
    # WHEN it is started again, THEN it takes up the run, and what it had seen before is in the trace
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[0].startswith(("push", "resume"))
    assert "resume" in done.stdout
    trace = Trace.open(tmp_path / "x.melt")
    check_whole(trace, 30)
    assert trace.metadata["telemetry"]["n_readouts"] >= len(seen)
    assert len(list((tmp_path / "work/runs").iterdir())) == 0


def test_two_processes_do_not_follow_one_run(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second() -> None:
        (entry,) = Journal().entries()
        with Device(LocalTransport(tmp_path / "work")) as other, pytest.raises(InvalidArgumentError) as caught:
            other.resume(entry.run)
        refused.append(str(caught.value))

    act = Once(second)
    check_whole(local.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt"), on_event=act).trace)
    act.join()
    assert "followed by another process" in refused[0]


def test_an_output_that_cannot_be_written_loses_nothing(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    act = Once(folder.rmdir)
    with pytest.raises(StorageError, match="melt devices resume"):
        local.measure(str(tiny_llama), MEASUREMENT, output=str(folder / "x.melt"), on_event=act)
    act.join()
    (entry,) = Journal().entries()
    folder.mkdir()
    check_whole(local.resume(entry.run).trace)
    assert (folder / "x.melt").exists()


def test_ctrl_c_ends_the_run_there_and_keeps_its_trace(local: Device, tiny_llama: Path, tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] >= 1:
            raise KeyboardInterrupt

    endless = replace(MEASUREMENT, request={**LONG, "repeats": 500})
    with pytest.raises(KeyboardInterrupt):
        local.measure(str(tiny_llama), endless, output=str(tmp_path / "x.melt"), on_event=_once(interrupt))
    trace = Trace.open(tmp_path / "x.melt")
    assert trace.complete
    assert 1 <= len(trace.runs) < 500
    assert not Journal().entries()


def _once(act: Any) -> Any:
    done: list[int] = []

    def call(event: dict[str, Any]) -> None:
        if not done:
            try:
                act(event)
            except KeyboardInterrupt:
                done.append(1)
                raise

    return call
