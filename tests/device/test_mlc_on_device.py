"""A compiled model (MLC) on a device: brought there with its TVM, run from token ids, the same tokens as here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import melt_core as melt
from fakes.mlc_model import write_source
from fakes.needs import lacking
from integration.mlc_models import mlc_compiled, mlc_packages, mlc_plain  # noqa: F401  (fixtures)
from melt_core.devices import Device
from melt_core.devices.agent import Reply
from melt_core.devices.agents import Platform
from melt_core.devices.mlc import deploy_tvm
from melt_core.devices.preparing import bring_model
from melt_core.errors import DeviceError, InvalidArgumentError, ModelError
from melt_core.models.mlc.convert import convert
from melt_core.models.mlc.verify import reference_of
from melt_core.profiling import ProfileRequest, profile_in_child
from melt_core.profiling.remote import profile_on_device
from melt_core.transports import LocalTransport, SshTransport

TOOLS = Path(__file__).parents[2] / "tools"
PROMPT = [5, 77, 130, 9, 250, 31, 8]
OPTIONS = {"max_tokens": 6, "ignore_eos": True, "warmup": 0, "overhead_budget_s": 0.0}


@pytest.fixture
def here(state: Path, tmp_path: Path) -> Device:
    """This machine, through the agent."""
    return Device(LocalTransport(tmp_path / "work"))


def test_the_same_tokens_and_tables_as_in_process(here: Device, mlc_plain: Path) -> None:  # noqa: F811
    def profiled(device: Device | str) -> tuple[melt.Completion, melt.Trace]:
        with melt.load(mlc_plain, runtime="mlc", device=device, n_threads=1, n_ctx=128) as llm:
            with melt.profile(llm, sensors="none") as prof:
                done = prof.run(PROMPT, **OPTIONS)
            return done, prof.trace

    with here:
        there, trace = profiled(here)
        held = here.held_bytes()
    done, own = profiled("local")
    assert there.token_ids == done.token_ids
    assert [row["op"] for row in trace.op_definitions.to_dicts()] == [
        row["op"] for row in own.op_definitions.to_dicts()
    ]
    assert trace.summary().conservation.min >= 0.99
    # AND what was sent is what a device needs: no tokenizer, TVM beside the model
    assert held["models"] == sum(file.stat().st_size for file in mlc_plain.iterdir() if "token" not in file.name)
    assert held["other"] > 1_000_000


def test_a_text_becomes_token_ids_on_the_host(here: Device, mlc_plain: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "model"
    shutil.copytree(mlc_plain, folder)
    vocabulary = {f"w{i}": i for i in range(320)}
    tokenizer = {
        "version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    request = ProfileRequest(
        model=str(folder), output=str(tmp_path / "there.melt"), runtime="mlc", prompt="w5 w77 w130", max_tokens=3,
        repeats=1, warmup=0, n_threads=1, n_ctx=64, overhead_budget_s=0.0, ignore_eos=True, sensors=("none",),
    )  # fmt: skip
    with here:
        there = profile_on_device(request, here)
    own = profile_in_child(ProfileRequest(**{**vars(request), "output": str(tmp_path / "here.melt")}))
    assert there.prompt_token_ids == (5, 77, 130)
    assert there.output_text == own.output_text != ""
    assert there.trace.metadata["model_file"] == own.trace.metadata["model_file"]
    assert not list((tmp_path / "work/models").rglob("tokenizer*"))


@pytest.mark.parametrize("quantization", ["q0f32", "q4f16_1"])
def test_on_an_arm64_board_with_the_wheels_tvm(
    quantization: str,
    arm64_board: SshTransport,
    mlc_packages: None,  # noqa: F811
    state: Path,
    tmp_path: Path,
) -> None:
    folder = arm64_model(tmp_path, quantization)
    with Device(arm64_board) as board:
        if not (TOOLS.parent / "build/cross/jetson/melt-agent").exists():
            lacking("no agent for this device: run `make cross PRESET=jetson`")
        with (
            melt.load(folder, runtime="mlc", device=board, n_threads=1, n_ctx=64, runtime_path=str(tvm())) as llm,
            melt.profile(llm, levels=("tokens", "ops"), sensors="none") as prof,
        ):
            done = prof.run(PROMPT, **{**OPTIONS, "max_tokens": 4})
    assert list(done.token_ids) == reference_of(folder).greedy(PROMPT, 4)[0]
    assert prof.trace.metadata["device_info"]["platform"] == "linux-aarch64"
    assert prof.trace.summary().conservation.min >= 0.99
    assert "MUL_MAT" in {row.key for row in prof.trace.key_averages("op_type")}


def arm64_model(folder: Path, quantization: str) -> Path:
    """Returns the tiny Llama with a library for arm64 Linux, linked by zig."""
    zig = subprocess.run(
        [sys.executable, str(TOOLS / "cross.py"), "zig"], capture_output=True, text=True, timeout=300, check=True
    ).stdout.strip()
    linker = folder / "arm64-c++"
    linker.write_text(f'#!/bin/sh\nexec "{zig}" c++ -target aarch64-linux-gnu.2.28 "$@"\n')
    linker.chmod(0o755)
    source, made = write_source(folder / "source"), folder / "tiny-arm64"
    convert(source, made, quantization=quantization, target="aarch64-linux-gnu", linker=str(linker))
    return made


def tvm() -> Path:
    """Returns TVM's libraries for arm64; in CI, fetched."""
    command = [sys.executable, str(TOOLS / "arm64_tvm.py"), "--if-made"]
    if os.environ.get("CI") == "true":
        command.pop()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        lacking(done.stderr.strip().splitlines()[-1])
    return Path(done.stdout.strip())


# What is refused, before anything is sent


def hello(libc: str = "glibc 2.36") -> Reply:
    return Reply({"build": {"libc": libc}}, "test")


def bring(transport: LocalTransport, model: Path, hello_: Reply | None = None, **fields: object) -> None:
    bring_model(transport, str(model), {"runtime": "mlc", **fields}, hello=hello_ or hello(), platform=lambda: AARCH64)


AARCH64 = Platform("linux", "aarch64")


@pytest.fixture
def local(tmp_path: Path) -> LocalTransport:
    return LocalTransport(tmp_path / "work")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with the names of a model's."""
    made = tmp_path / "folder"
    made.mkdir()
    (made / "mlc-chat-config.json").write_text("{}")
    (made / "tensor-cache.json").write_text('{"records": [{"dataPath": "params_shard_0.bin"}]}')
    (made / "params_shard_0.bin").write_bytes(b"x")
    (made / "model.so").write_bytes(elf(183))
    return made


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(44)


def test_a_static_agent_can_load_no_library(local: LocalTransport, folder: Path) -> None:
    with pytest.raises(DeviceError, match=r"static program.*android-arm64"):
        bring(local, folder, hello("musl"))


def test_without_tvm_it_says_where_it_comes_from(local: LocalTransport, folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"--runtime-path.*pip install --target tvm-aarch64"):
        bring(local, folder)


def test_tvm_for_another_processor_is_refused(local: LocalTransport, folder: Path, tmp_path: Path) -> None:
    for name in ("libtvm_ffi.so", "libtvm_runtime.so"):
        (tmp_path / name).write_bytes(elf(62))
    with pytest.raises(InvalidArgumentError, match=r"is for x86_64, .* is linux-aarch64"):
        bring(local, folder, runtime_path=str(tmp_path))
    (tmp_path / "libtvm_ffi.so").unlink()
    with pytest.raises(InvalidArgumentError, match="no libtvm_ffi in"):
        bring(local, folder, runtime_path=str(tmp_path))
    assert not (tmp_path / "work/models").exists()


def test_what_lies_on_the_device_is_named_by_its_path(local: LocalTransport) -> None:
    assert deploy_tvm(local, "device:/data/app/lib/libtvm4j.so", AARCH64) == "/data/app/lib/libtvm4j.so"
    with pytest.raises(InvalidArgumentError, match="absolute path on the device"):
        deploy_tvm(local, "device:libtvm4j.so", AARCH64)


def test_an_apps_one_library_is_brought_alone(local: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "libtvm4j_runtime_packed.so").write_bytes(elf(183))
    there = deploy_tvm(local, str(tmp_path / "libtvm4j_runtime_packed.so"), AARCH64)
    assert (tmp_path / "work" / there).read_bytes() == elf(183)


def test_a_list_that_climbs_out_of_its_folder_is_refused(local: LocalTransport, folder: Path) -> None:
    (folder / "tensor-cache.json").write_text('{"records": [{"dataPath": "../secret"}]}')
    with pytest.raises(InvalidArgumentError, match="slash"):
        bring(local, folder, runtime_path="device:/x")
    (folder / "tensor-cache.json").write_text("[]")
    with pytest.raises(ModelError, match="no list of parameters"):
        bring(local, folder, runtime_path="device:/x")
    (folder / "mlc-chat-config.json").unlink()
    with pytest.raises(ModelError, match="no model directory"):
        bring(local, folder, runtime_path="device:/x")
