"""A device with a kernel of its own: an arm64 virtual machine over ssh. Real restarts, networks, disks and memory.

python tools/device_vm.py --install && pytest -m vm
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.needs import lacking
from fakes.virtual_machine import VirtualMachine, what_is_missing
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.devices.retry import Patience
from melt_core.errors import DeviceError, MeltError, TransientDeviceError
from melt_core.trace import Trace
from melt_core.transports import RemotePath, SshTransport

from .long_runs import Once

pytestmark = pytest.mark.vm

REQUEST = {
    "prompt_tokens": 4, "max_tokens": 12, "repeats": 3, "warmup": 0, "n_ctx": 128, "n_threads": 1,
    "overhead_budget_s": 0.0, "levels": ["tokens", "ops"],
}  # fmt: skip
MEASUREMENT = Measurement(REQUEST, limits=GateLimits(wait_s=0), telemetry_s=0.5, patience=Patience(60, 120.0))
ENDLESS = replace(MEASUREMENT, request={**REQUEST, "levels": ["tokens"], "repeats": 5000})


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    if (problem := what_is_missing()) is not None:
        lacking(problem)
    made = VirtualMachine(tmp_path_factory.mktemp("vm"))
    try:
        made.start()
        made.wait_for_boot()
        yield made
    finally:
        made.stop()


@pytest.fixture
def board(machine: VirtualMachine, state: Path) -> Iterator[Device]:
    made = SshTransport(
        f"root@127.0.0.1:{machine.port}", key_file=machine.folder / "id", known_hosts=machine.folder / "known_hosts"
    )
    with Device(made) as device:
        yield device
        device.clean(force=True)


_FILL = """cd "$1" && free=$(df -kP . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
exec dd if=/dev/zero of=fill bs=1024 count=$((free - 4096))"""


def test_a_whole_profile(board: Device, tiny_llama: Path, tmp_path: Path) -> None:
    trace = board.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "x.melt")).trace
    assert trace.complete
    assert not trace.damage
    assert len(trace.runs) == 3
    assert trace.metadata["device_info"]["platform"] == "linux-aarch64"
    assert trace.metadata["clock_alignment"]["error_us"] < 1e6
    assert "mem" in set(trace.samples["site"])
    median = trace.summary().conservation.median
    assert median is not None
    assert median >= 0.99
    assert not Journal().entries()


def test_network_cable_pulled_during_the_run(
    machine: VirtualMachine, board: Device, tiny_llama: Path, tmp_path: Path
) -> None:
    def pull() -> None:
        machine.plug_network(plugged=False)
        time.sleep(2.0)
        machine.plug_network(plugged=True)

    act = Once(pull, repetitions=1)
    measurement = replace(MEASUREMENT, request={**REQUEST, "levels": ["tokens"], "repeats": 20})
    trace = board.measure(str(tiny_llama), measurement, output=str(tmp_path / "x.melt"), on_event=act).trace
    act.join(120)
    assert trace.complete
    assert len(trace.runs) == 20


def test_memory_killer_ends_the_run(board: Device, tiny_llama: Path, tmp_path: Path) -> None:
    def run_out() -> None:
        # The kernel's own killer, told that memory is out, with the run as its first choice.
        (entry,) = Journal().entries()
        status = board.transport.resolve(RemotePath(("runs", entry.run, "status.json")))
        script = r"""pid=$(grep -o '"pid": *[0-9]*' "$1" | head -n 1 | tr -dc 0-9)
            echo 1000 > /proc/$pid/oom_score_adj && echo 1 > /proc/sys/kernel/sysrq && echo f > /proc/sysrq-trigger"""
        assert board.transport.run(["sh", "-c", script, "x", status]).exit_code == 0

    act = Once(run_out, repetitions=2)
    with pytest.raises(MeltError, match="memory") as caught:
        board.measure(str(tiny_llama), ENDLESS, output=str(tmp_path / "x.melt"), on_event=act)
    act.join(120)
    assert "x.melt" in str(caught.value)
    assert len(Trace.open(tmp_path / "x.melt").runs) >= 2
    assert not Journal().entries()


def test_disk_that_fills_while_the_model_is_sent(board: Device, tmp_path: Path) -> None:
    # GIVEN a disk with 4 MB left, and a larger model
    board.agent()
    board.transport.run(["sh", "-c", _FILL, "x", board.transport.work_dir])
    large = tmp_path / "large.gguf"
    large.write_bytes(bytes(8 << 20))
    try:
        with pytest.raises(DeviceError, match=r"(?i)free|full") as caught:
            board.bring(str(large))
        assert not isinstance(caught.value, TransientDeviceError)
        assert board.held_bytes()["models"] == 0
    finally:
        board.transport.remove(RemotePath.of("fill"))


@pytest.mark.parametrize("how", ["reboot", "reset"])
def test_restarted_during_the_run(
    machine: VirtualMachine, board: Device, tiny_llama: Path, tmp_path: Path, how: str
) -> None:
    boots = 2 if how == "reboot" else 3

    def restart() -> None:
        if how == "reset":  # as by a battery that is empty
            machine.reset()
        else:
            board.transport.run(["sh", "-c", "/sbin/reboot >/dev/null 2>&1 </dev/null &"])
        machine.wait_for_boot(boots)

    act = Once(restart, repetitions=3)
    finished: list[int] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "repetition":
            finished.append(event["done"])
        act(event)

    with pytest.raises(MeltError, match=r"restarted.*x\.melt"):
        board.measure(str(tiny_llama), ENDLESS, output=str(tmp_path / "x.melt"), on_event=watch)
    act.join(120)
    # THEN each repetition that the device had said to be finished is here, nothing is left to fetch, and the device
    # can be measured again
    runs = Trace.open(tmp_path / "x.melt").runs
    assert len(runs) >= max(finished) >= 3
    assert (runs["stop_reason"] != "error").all()
    assert not Journal().entries()
    trace = board.measure(str(tiny_llama), MEASUREMENT, output=str(tmp_path / "y.melt")).trace
    assert trace.complete
