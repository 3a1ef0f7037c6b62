"""A device through the real agent, over each transport: the host's own trace, nothing sent twice, left clean."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import melt_core as melt
from fakes.adb_phone import AdbServerProcess
from melt_core.cli.main import main
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.devices.journal import Journal
from melt_core.errors import DeviceBusyError, InvalidArgumentError
from melt_core.profiling import ProfileRequest, profile_in_child
from melt_core.profiling.remote import profile_on_device
from melt_core.trace import Trace
from melt_core.transports import LocalTransport, Transport

SYNTHETIC = "layers=2,op_ns=20000"
QUICK = {
    "runtime": "synthetic",
    "prompt": "Hello",
    "max_tokens": 4,
    "repeats": 2,
    "warmup": 1,
    "overhead_budget_s": 0.0,
}


@pytest.fixture(scope="session")
def tiny(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name a shell could read as more."""
    return Path(shutil.copyfile(tiny_llama, tmp_path_factory.mktemp("models") / "tiny llama; $(x).gguf"))


def tables(trace: Trace) -> dict[str, list[str]]:
    names = ("runs", "phases", "tokens", "graphs", "ops", "op_definitions", "prompts", "allocations", "samples")
    found = {name: list(getattr(trace, name).columns) for name in names}
    found["ops"] = found["ops"][: found["ops"].index("flops") + 1]  # behind it: what an emulator has no counters for
    return found


def is_emulated(device: Device) -> bool:
    return device.info().platform.machine != os.uname().machine


def test_the_trace_is_the_same_as_the_hosts(device: Device, tiny: Path, tmp_path: Path) -> None:
    request = {
        "model": str(tiny), "prompt_tokens": 12, "max_tokens": 6, "repeats": 2, "warmup": 1, "n_ctx": 128,
        "n_threads": 1, "levels": ("tokens", "ops", "memory"), "overhead_budget_s": 0.0, "seed": 3,
    }  # fmt: skip
    here = profile_in_child(ProfileRequest(output=str(tmp_path / "here.melt"), **request))  # type: ignore[arg-type]
    there = profile_on_device(ProfileRequest(output=str(tmp_path / "there.melt"), **request), device)  # type: ignore[arg-type]
    # THEN it holds the same tables with the same tokens, and as much of the time is in ops
    assert tables(there.trace) == tables(here.trace)
    same = (
        ("runs", "tokens", "prompts") if is_emulated(device) else ("runs", "tokens", "graphs", "ops", "op_definitions")
    )
    for name in same:
        assert len(getattr(there.trace, name)) == len(getattr(here.trace, name)), name
    assert there.prompt_token_ids == here.prompt_token_ids
    if not is_emulated(device):  # random weights: another processor's rounding picks other tokens
        assert there.trace.tokens["token_id"].tolist() == here.trace.tokens["token_id"].tolist()
        assert there.output_text == here.output_text
    assert not there.trace.damage
    assert there.trace.complete
    # AND what only a device has
    metadata = there.trace.metadata
    assert metadata["clock_alignment"]["error_us"] < 1e5
    assert metadata["model_file"] == here.trace.metadata["model_file"]
    assert metadata["transport"] == device.uri.partition(":")[0]
    assert {"charger", "temperature", "free space", "free memory"} <= {g["name"] for g in metadata["gates"]["gates"]}
    assert "mem" in set(there.trace.samples["site"])


def test_samples_of_the_host_lie_within_the_run(device: Device, tiny: Path, tmp_path: Path) -> None:
    request = {
        "prompt_tokens": 8, "max_tokens": 400, "repeats": 8, "warmup": 0, "n_ctx": 512, "n_threads": 1,
        "overhead_budget_s": 0.0, "levels": ["tokens"],
    }  # fmt: skip
    if is_emulated(device):
        request |= {"max_tokens": 40, "repeats": 3}
    trace = device.measure(str(tiny), Measurement(request, telemetry_s=0.1), output=str(tmp_path / "x.melt")).trace
    at = trace.samples["time_ns"][trace.samples["source"] == "/proc/meminfo MemAvailable"]
    end = int(np.max(trace.runs["start_ns"] + trace.runs["duration_ns"]))
    # THEN the device was asked from about the start until shortly after the end, and in between
    assert ((at >= -20e9) & (at <= end + 20e9)).all(), (at, end)
    assert np.count_nonzero((at > 0) & (at < end)) >= 1


def test_a_simulated_clock_takes_no_samples(state: Path, tmp_path: Path) -> None:
    with Device(LocalTransport(tmp_path / "work")) as device:
        trace = device.measure(SYNTHETIC, Measurement(QUICK), output=str(tmp_path / "x.melt")).trace
    assert not len(trace.samples)
    assert "simulated" in trace.metadata["clock_alignment"]["missing"]


def test_nothing_is_sent_twice_and_runs_are_removed(
    device: Device, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = Measurement(
        {"prompt_tokens": 4, "max_tokens": 2, "repeats": 1, "n_ctx": 64, "n_threads": 1, "overhead_budget_s": 0.0}
    )
    device.measure(str(tiny), measurement, output=str(tmp_path / "1.melt"))
    held = device.held_bytes()
    assert held["models"] == tiny.stat().st_size
    assert held["runs"] == 0
    assert not Journal().entries()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was there")

    monkeypatch.setattr(type(device.transport), "push", never)
    device.measure(str(tiny), measurement, output=str(tmp_path / "2.melt"))
    # WHEN it is cleaned, THEN nothing is left, and cleaning again is harmless
    assert device.clean() == sum(device.held_bytes().values()) + sum(held.values())
    assert device.held_bytes() == {}
    assert device.clean() == 0


def test_load_and_profile_work_over_a_device(device: Device) -> None:
    def profile_once(where: Device | str) -> Trace:
        with (
            melt.load(SYNTHETIC, runtime="synthetic", device=where, n_threads=2) as llm,
            melt.profile(llm, levels=("tokens", "ops"), metadata={"mine": 7}) as prof,
        ):
            done = prof.run("Explain", chat=True, max_tokens=5, repeats=2, overhead_budget_s=0.0)
            assert llm.decode(done.token_ids) == done.text
        return prof.trace

    here, there = profile_once("local"), profile_once(device)
    assert there.tokens["token_id"].tolist() == here.tokens["token_id"].tolist()
    assert there.metadata["mine"] == 7
    assert there.metadata["config"] == here.metadata["config"]


def test_a_profile_on_a_device_holds_one_run(state: Path, tmp_path: Path) -> None:
    with Device(LocalTransport(tmp_path / "work")) as device:
        llm = melt.load(SYNTHETIC, runtime="synthetic", device=device)
        with melt.profile(llm, output=tmp_path / "x.melt") as prof:
            prof.run("Hello", max_tokens=2, overhead_budget_s=0.0)
            with pytest.raises(InvalidArgumentError, match="has its run"):
                prof.run("Hello", max_tokens=2)
        for apart in (lambda: prof.sample_idle(1), prof.mark):
            with pytest.raises(InvalidArgumentError, match="part of the run"):
                apart()
        for refused in (lambda: llm.info, llm.cancel, lambda: llm.format_chat([("user", "x")])):
            with pytest.raises(InvalidArgumentError):
                refused()


def test_errors_of_the_runtime_keep_their_kind(device: Device, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(melt.ModelError):
        device.measure(str(damaged), Measurement({"prompt": "x"}), output=str(tmp_path / "x.melt"))
    with pytest.raises(InvalidArgumentError, match="max_tokens"):
        device.measure(SYNTHETIC, Measurement({**QUICK, "max_tokens": 0}), output=str(tmp_path / "x.melt"))
    with pytest.raises(InvalidArgumentError):
        device.measure(SYNTHETIC, Measurement({**QUICK, "no_such_field": 1}), output=str(tmp_path / "x.melt"))
    assert not Journal().entries()
    assert device.held_bytes()["runs"] == 0


def test_a_lease_names_the_other_host(
    transport: Transport, state: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Device(transport)
    first.agent().ask("lease", ttl_s=60)
    holder = (state / "host_id").read_text().strip('"')
    # WHEN a second host comes, THEN it is told who has the device, and nothing is repeated or left open
    monkeypatch.setenv("MELT_STATE_DIR", str(tmp_path_factory.mktemp("other")))
    second = Device(transport)
    with pytest.raises(DeviceBusyError, match=holder):
        second.measure(SYNTHETIC, Measurement(QUICK), output=str(tmp_path_factory.mktemp("out") / "x.melt"))
    with pytest.raises(DeviceBusyError):
        second.clean()
    first.agent().ask("release")
    second.measure(SYNTHETIC, Measurement(QUICK), output=str(tmp_path_factory.mktemp("out") / "x.melt"))
    second.close()
    first.close()


def test_gates_that_fail_mark_the_run(state: Path, tmp_path: Path) -> None:
    limits = GateLimits(least_free_bytes=1 << 62, wait_s=0)
    with Device(LocalTransport(tmp_path / "work")) as device:
        outcome = device.measure(SYNTHETIC, Measurement(QUICK, limits=limits), output=str(tmp_path / "x.melt"))
    assert any("gate free space failed" in text for text in outcome.trace.warnings)
    assert outcome.trace.metadata["gates"]["passed"] is False


# The command line


@pytest.fixture
def work(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work directory of device `local`."""
    monkeypatch.setenv("MELT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/device"


def test_commands(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from melt_core.devices import device as devices

    output = tmp_path / "x.melt"
    assert main(["devices", "--json", "list", "local"]) == 0
    assert len(json.loads(capsys.readouterr().out)["devices"]) == 1
    assert main(["devices", "list", "local", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["devices"]
    assert (listed["uri"], listed["state"]) == ("local", "ready")
    assert listed["n_cpus"] >= 1
    assert main(["devices", "list", "ssh:127.0.0.1:1", "local"]) == 0
    seen = capsys.readouterr()
    assert "unreachable" in seen.out
    # WHEN a run is started and its host goes, THEN the commands list it and bring it back
    with devices.connect("local") as device:
        _start_and_leave(device, output)
    assert main(["devices", "runs"]) == 0
    assert str(output) in capsys.readouterr().out
    assert main(["devices", "clean", "local"]) == 2
    assert "resume" in capsys.readouterr().err
    assert main(["devices", "resume"]) == 0
    assert Trace.open(output).complete
    assert main(["devices", "resume", "no-such-run"]) == 2
    # AND a trace whose folder is gone comes to where the command is run
    monkeypatch.chdir(tmp_path)
    with devices.connect("local") as device:
        _start_and_leave(device, tmp_path / "gone/x.melt")
    (entry,) = Journal().entries()
    assert main(["devices", "resume"]) == 0
    assert Trace.open(tmp_path / f"{entry.run}.melt").complete
    assert main(["devices", "clean", "local"]) == 0
    assert not any(work.iterdir())


def _start_and_leave(device: Device, output: Path) -> None:
    class HostGoesError(Exception):
        pass

    def go(event: dict[str, object]) -> None:
        if event["event"] == "repetition":
            raise HostGoesError

    measurement = Measurement({**QUICK, "max_tokens": 30}, limits=GateLimits(wait_s=0))
    with pytest.raises(HostGoesError):
        device.measure("layers=4,op_ns=300000", measurement, output=str(output), on_event=go)


def test_profile_command_over_ssh(
    adb_server: AdbServerProcess,
    ssh_server: object,
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from melt_core.devices import device as devices
    from melt_core.transports import SshTransport

    server = ssh_server
    monkeypatch.setattr(
        devices,
        "transport_of",
        lambda uri, work_dir=None: SshTransport(
            uri.name,
            work_dir=str(tmp_path / "work"),
            key_file=server.folder / "id",  # type: ignore[attr-defined]
            known_hosts=server.folder / "known_hosts",  # type: ignore[attr-defined]
        ),
    )
    uri = f"ssh:someone@127.0.0.1:{server.port}"  # type: ignore[attr-defined]
    arguments = ["--runtime", "synthetic", "--prompt", "Hi", "--max-tokens", "4", "--overhead-seconds", "0", "--json"]
    assert main(["profile", SYNTHETIC, "--device", uri, "-o", str(tmp_path / "x.melt"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["n_runs"] == 3
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))  # none is left behind on adb's own port
    assert main(["devices", "list", "--json"]) == 0  # a host that was used is listed from then on
    assert uri in {one["uri"] for one in json.loads(capsys.readouterr().out)["devices"]}


def test_the_demo_model_gives_the_hosts_tokens(adb: Transport, demo: Path, state: Path, tmp_path: Path) -> None:
    request = {
        "model": str(demo), "prompt": "The capital of France is", "max_tokens": 8, "repeats": 1, "warmup": 0,
        "n_ctx": 256, "n_threads": 1, "overhead_budget_s": 0.0,
    }  # fmt: skip
    here = profile_in_child(ProfileRequest(output=str(tmp_path / "here.melt"), **request))  # type: ignore[arg-type]
    with Device(adb) as device:
        there = profile_on_device(ProfileRequest(output=str(tmp_path / "there.melt"), **request), device)  # type: ignore[arg-type]
    assert there.trace.tokens["token_id"].tolist() == here.trace.tokens["token_id"].tolist()
    assert "Paris" in there.output_text
    conservation = there.trace.summary().conservation
    assert conservation.median is not None
    assert conservation.median >= 0.99
