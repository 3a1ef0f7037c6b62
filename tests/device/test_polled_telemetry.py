"""What a device's own programs say while it runs, and before: tegrastats, dumpsys cpuinfo, dumpsys power."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ssh_server import SshServer
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.telemetry import dumpsys_power
from melt_core.errors import InvalidArgumentError, TelemetryError
from melt_core.trace import Trace
from melt_core.transports import SshTransport

DATA = Path(__file__).parents[1] / "data/devices"


@pytest.fixture
def programs(ssh_server: SshServer, tmp_path: Path) -> Iterator[Path]:
    """A folder of programs that the device has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    ssh_server.before_each = f"PATH={folder}:$PATH; export PATH; "
    yield folder
    ssh_server.before_each = ""


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def android(folder: Path, power: str = "power_awake.txt") -> None:
    program(folder, "getprop", "echo '[ro.build.version.release]: [14]'; echo '[ro.product.model]: [stand-in]'")
    texts = {"battery": "battery_aosp.txt", "cpuinfo": "cpuinfo.txt", "power": power}
    cases = "".join(f"{name}) exec cat '{DATA}/{file}';; " for name, file in texts.items())
    program(folder, "dumpsys", f'case "$1" in {cases}*) echo "Can\'t find service: $1"; esac')


def measured(ssh: SshTransport, model: Path, tmp_path: Path) -> Trace:
    request = {
        "prompt_tokens": 8, "max_tokens": 200, "repeats": 4, "warmup": 0, "n_ctx": 256, "n_threads": 1,
        "overhead_budget_s": 0.0, "levels": ["tokens"], "sensors": ["none"],
    }  # fmt: skip
    measurement = Measurement(request, GateLimits(wait_s=0), telemetry_s=0.2)
    with Device(ssh) as device:
        return device.measure(str(model), measurement, output=str(tmp_path / "x.melt")).trace


def sources(trace: Trace) -> set[str]:
    return set(trace.samples["source"])


def gate(trace: Trace, name: str) -> str:
    found: str = next(one["state"] for one in trace.metadata["gates"]["gates"] if one["name"] == name)
    return found


def test_tegrastats_is_polled(programs: Path, ssh: SshTransport, tiny_llama: Path, state: Path, tmp_path: Path) -> None:
    # GIVEN a board whose tegrastats prints until it is ended
    line = (DATA / "tegrastats_orin_agx.txt").read_text().strip()
    program(programs, "tegrastats", f"while :; do echo '{line}' || exit; sleep 0.05; done")
    # WHEN a model is measured there, THEN its engines' load and rails are samples
    trace = measured(ssh, tiny_llama, tmp_path)
    samples = trace.samples
    assert "tegrastats" in sources(trace)
    load = samples["value"][(samples["site"] == "gpu") & (samples["kind"] == "load")]
    assert len(load) >= 1
    assert set(load) == {0.14}
    assert "tegrastats VDD_GPU_SOC" in sources(trace)


def test_a_tegrastats_that_says_nothing_is_absent_with_its_reason(
    programs: Path, ssh: SshTransport, tiny_llama: Path, state: Path, tmp_path: Path
) -> None:
    program(programs, "tegrastats", "exit 1")
    trace = measured(ssh, tiny_llama, tmp_path)
    assert any("tegrastats" in what for what in trace.metadata["telemetry"]["missing"])


def test_android_services_are_polled_and_the_screen_is_a_gate(
    programs: Path, ssh: SshTransport, tiny_llama: Path, state: Path, tmp_path: Path
) -> None:
    android(programs)
    trace = measured(ssh, tiny_llama, tmp_path)
    assert {"dumpsys battery", "dumpsys cpuinfo"} <= sources(trace)
    assert gate(trace, "screen") == "passed"
    assert any("window of" in note for note in trace.metadata["telemetry"]["assumptions"])


def test_a_screen_that_is_off_marks_the_run(
    programs: Path, ssh: SshTransport, tiny_llama: Path, state: Path, tmp_path: Path
) -> None:
    android(programs, "power_dozing.txt")
    trace = measured(ssh, tiny_llama, tmp_path)
    assert gate(trace, "screen") == "failed"
    assert any("gate screen failed" in text and "stayon" in text for text in trace.warnings)


def test_what_the_power_service_says() -> None:
    facts = dumpsys_power.parse((DATA / "power_awake.txt").read_text()).facts
    assert (facts["wakefulness"], facts["screen"]) == ("Awake", "on")  # the first mWakefulness counts
    facts = dumpsys_power.parse((DATA / "power_dozing.txt").read_text()).facts
    assert (facts["wakefulness"], facts["screen"]) == ("Dozing", "off")
    assert dumpsys_power.parse("  mWakefulness=Awake\n").facts["screen"] == "on"  # not every release shows the display
    assert dumpsys_power.parse("mWakefulness=Awake\nDisplay Power: state=OFF\n").facts["screen"] == "off"
    with pytest.raises(TelemetryError, match="mWakefulness"):
        dumpsys_power.parse("Can't find service: power")


def test_a_screen_that_cannot_be_wanted() -> None:
    with pytest.raises(InvalidArgumentError, match="screen"):
        GateLimits(screen="dim")
