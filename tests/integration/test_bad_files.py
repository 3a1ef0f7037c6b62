"""Files that cannot be: damaged or foreign models, places that cannot be written, a child that dies while it writes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

import melt_core as melt
from fakes.needs import lacking
from fakes.tiny_models import write_model
from fakes.trace_builder import toy_trace
from melt_core.errors import InvalidArgumentError, ModelError, RuntimeFailedError, StorageError

from .conftest import MELT, SHORT, TIMEOUT_S, Outcome

Melt = Callable[..., Outcome]


@pytest.fixture(scope="module")
def sections(tiny_llama: Path) -> dict[str, int]:
    """Where each part of the tiny model's file begins."""
    reader = gguf.GGUFReader(tiny_llama)
    tokens = reader.fields["tokenizer.ggml.tokens"]
    block_count = reader.fields["llama.block_count"]
    return {
        "keys": 24,
        "vocabulary": int(tokens.offset),
        "block_count": int(block_count.offset) + 8 + len("llama.block_count") + 4,
        "tensors": int(reader.tensors[0].field.offset),
        "data": int(reader.data_offset),
        "end": tiny_llama.stat().st_size,
    }


def refused(path: Path, **options: Any) -> str:
    """Loads a model, which must fail with a ModelError of one line that names the file; returns the message."""
    with pytest.raises(ModelError) as raised:
        melt.load(path, n_threads=1, n_ctx=64, **options).close()
    message = str(raised.value)
    assert "\n" not in message
    assert path.name in message
    return message


# Model files


@pytest.mark.parametrize("cut", [1, 4, 10, 23, "keys", "vocabulary", "tensors", "data", "end"])
def test_a_file_cut_short_is_refused(
    cut: int | str, tiny_llama: Path, sections: dict[str, int], tmp_path: Path
) -> None:
    n_bytes = cut if isinstance(cut, int) else sections[cut]
    n_bytes += {"keys": 5, "vocabulary": 5000, "tensors": 100, "data": 10, "end": -1}.get(str(cut), 0)
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_llama.read_bytes()[:n_bytes])
    assert "download it again" in refused(path) or n_bytes < 4


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"GGML", "GGUF"),
        (4, struct.pack("<I", 99), "version 99"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**60), "tensors"),
        (16, struct.pack("<Q", 2**60), "keys"),
        (24, struct.pack("<Q", 2**62), "length"),
        ("keys", struct.pack("<Q", 0), "empty"),
        ("vocabulary", struct.pack("<Q", 1), "damaged|unknown type"),
        ("block_count", struct.pack("<I", 0), "block_count"),
        ("block_count", struct.pack("<I", 2**31), "block_count"),
        ("block_count", struct.pack("<I", 3), "blk.2"),
        ("tensors", struct.pack("<Q", 2**40), "length"),
    ],
)
def test_a_damaged_header_is_refused(
    offset: int | str, value: bytes, says: str, tiny_llama: Path, sections: dict[str, int], tmp_path: Path
) -> None:
    data = bytearray(tiny_llama.read_bytes())
    at = offset if isinstance(offset, int) else sections[offset]
    data[at : at + len(value)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    assert any(word in refused(path) for word in says.split("|")), refused(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello world", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (struct.pack("<Q", 60) + b'{"weight": {}}', "safetensors"),
        (bytes(4096), "not a GGUF file"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    assert says in refused(path)


def test_missing_files_and_directories_are_refused(tmp_path: Path, cli: Melt) -> None:
    assert "no model file" in refused(tmp_path / "missing.gguf")
    assert "directory" in refused(tmp_path)
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link.gguf")
    outcome = cli("profile", "no-such-model")
    assert outcome.code == 1
    assert "no-such-model" in outcome.complaint


def test_a_pipe_is_refused_without_waiting_for_a_writer(start_python: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    child = start_python("import sys, melt_core as melt; melt.load(sys.argv[1])", tmp_path / "pipe.gguf")
    try:
        _, err = child.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        pytest.fail("loading waits for somebody to write into the pipe")
    assert "regular file" in err


def test_a_vocabulary_alone_is_no_model(vocabularies: Path) -> None:
    refused(vocabularies / "ggml-vocab-phi-3.gguf")


def test_an_unknown_architecture_is_named(vocabularies: Path, tmp_path: Path, cli: Melt) -> None:
    path = write_model(tmp_path / "model.gguf", "nosuch")
    assert "nosuch" in refused(path)
    outcome = cli("profile", path, *SHORT)
    assert outcome.code == 1
    assert "unknown model architecture: 'nosuch'" in outcome.complaint


def test_weights_that_are_not_numbers_are_refused_on_request(vocabularies: Path, tmp_path: Path, cli: Melt) -> None:
    path = write_model(tmp_path / "model.gguf", nan_weights=True)
    assert "output_norm.weight" in refused(path, check_tensors=True)
    outcome = cli("profile", path, *SHORT, "--check-tensors")
    assert outcome.code == 1
    assert "output_norm.weight" in outcome.complaint
    # Unchecked it runs: logits that are all NaN give some token, and no crash.
    assert cli("profile", path, *SHORT).code == 0


def test_damaged_models_take_one_line_on_the_command_line(tiny_llama: Path, tmp_path: Path, cli: Melt) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_llama.read_bytes()[:-1])
    for path in (cut, tmp_path, tmp_path / "missing.gguf"):
        outcome = cli("profile", path, *SHORT)
        assert (outcome.code, outcome.out) == (1, "")
        assert str(path) in outcome.complaint
        inspected = cli("models", "inspect", path)
        assert (inspected.code, inspected.out) == (1, "")
        assert str(path) in inspected.complaint


def test_a_model_file_that_goes_away_is_noticed_at_the_next_load(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    with melt.load(path, n_threads=1) as llm:
        path.unlink()
        with melt.profile(llm) as profiler:  # mapped: what is loaded stays
            assert len(profiler.run([1, 2], max_tokens=2, ignore_eos=True).token_ids) == 2
    refused(path)


# Output


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    tiny_llama: Path, tmp_path: Path, cli: Melt
) -> None:
    for output in (tmp_path, tmp_path / "missing" / "t.melt"):
        outcome = cli("profile", tiny_llama, *SHORT, "-o", output)
        assert outcome.code == 1
        assert str(output) in outcome.complaint
    with melt.load(tiny_llama, n_threads=1) as llm:
        for output in (tmp_path, tmp_path / "missing" / "t.melt"):
            with pytest.raises(StorageError, match="choose a directory"):
                melt.profile(llm, output=output)


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be started: what is refused is refused before a model is loaded."""

    def started(*_: object, **__: object) -> None:
        pytest.fail("a child process was started")

    monkeypatch.setattr(subprocess, "Popen", started)


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("kind", ["pipe", "/dev/null", "/dev/full", "socket"])
def test_an_output_that_is_no_file_is_refused(kind: str, tmp_path: Path, cli: Melt) -> None:
    output = Path(kind) if kind.startswith("/") else tmp_path / kind
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "pipe":
            os.mkfifo(output)
        elif kind == "socket":
            listening.bind(str(output))
        outcome = cli("profile", "layers=1", "--runtime", "synthetic", "-o", output)
        assert outcome.code == 1
        assert f"cannot write {output}: it is not a regular file" in outcome.complaint
    with melt.load("layers=1", runtime="synthetic") as llm, pytest.raises(StorageError, match="not a regular file"):
        melt.profile(llm, output=output)


def test_a_pipe_on_standard_output_is_no_place_for_a_trace(cli_process: Melt) -> None:
    outcome = cli_process("profile", "layers=1", "--runtime", "synthetic", *SHORT, "-o", "/dev/stdout")
    assert (outcome.code, outcome.out) == (1, "")
    assert "/dev/stdout: it is not a regular file" in outcome.complaint


@pytest.mark.parametrize("name", ["model.gguf", "link.gguf", "../{}/model.gguf"])
def test_the_model_is_never_the_output(name: str, tiny_llama: Path, tmp_path: Path, cli: Melt) -> None:
    # GIVEN a model, and an output that is the same file by whatever name
    model, output = tmp_path / "model.gguf", tmp_path / name.format(tmp_path.name)
    model.write_bytes(tiny_llama.read_bytes())
    (tmp_path / "link.gguf").symlink_to(model)
    # THEN no way of recording touches it
    outcome = cli("profile", model, *SHORT, "-o", output)
    assert outcome.code == 2
    assert f"cannot write {output}: the output is the input" in outcome.complaint
    with melt.load(model, n_threads=1) as llm, pytest.raises(InvalidArgumentError, match="output is the input"):
        melt.profile(llm, output=output)
    with pytest.raises(InvalidArgumentError, match="output is the input"):
        melt.profile_in_child(melt.ProfileRequest(model=str(model), output=str(output)))
    assert model.read_bytes() == tiny_llama.read_bytes()


@pytest.mark.usefixtures("no_child")
def test_a_file_that_is_no_trace_is_never_replaced(tmp_path: Path, cli: Melt) -> None:
    output = tmp_path / "notes.txt"
    output.write_text("of value\n")
    outcome = cli("profile", "layers=1", "--runtime", "synthetic", "-o", output)
    assert outcome.code == 2
    assert f"cannot write {output}: the file there is not a trace; name another file" in outcome.complaint
    with melt.load("layers=1", runtime="synthetic") as llm, pytest.raises(InvalidArgumentError, match="not a trace"):
        melt.profile(llm, output=output)
    assert output.read_text() == "of value\n"


@pytest.mark.parametrize(
    "options", [("--max-tokens", -1), ("--temperature", "nan"), ("--overhead-seconds", "nan"), ("--idle-s", "nan")]
)
def test_a_run_that_is_refused_leaves_the_older_trace(options: tuple[Any, ...], tmp_path: Path, cli: Melt) -> None:
    old, new = tmp_path / "old.melt", tmp_path / "new.melt"
    old.write_bytes(toy_trace())
    for output in (old, new):
        outcome = cli("profile", "layers=1", "--runtime", "synthetic", *SHORT, *options, "-o", output)
        assert outcome.code == 2
        assert len(outcome.complaint) > 0
    assert old.read_bytes() == toy_trace()
    assert not new.exists()


def test_a_trace_and_an_empty_file_are_replaced(tiny_llama: Path, tmp_path: Path, cli: Melt) -> None:
    output = tmp_path / "t.melt"
    output.touch()
    assert cli("profile", tiny_llama, *SHORT, "-o", output).code == 0
    first = melt.Trace.open(output).header.trace_id
    assert cli("profile", tiny_llama, *SHORT, "-o", output).code == 0
    assert melt.Trace.open(output).header.trace_id != first
    # but not the trace that is replayed
    outcome = cli("profile", tiny_llama, "--replay", output, "-o", output)
    assert outcome.code == 2
    assert "the output is the input" in outcome.complaint


def check_partial_trace(path: Path, outcome: Outcome) -> None:
    assert outcome.code == 1
    assert str(path) in outcome.complaint
    trace = melt.Trace.open(path)
    assert not trace.complete
    assert len(trace.runs) >= 1
    assert trace.summary().n_runs >= 1


def test_a_disk_that_fills_up_leaves_what_was_written(tiny_llama: Path, tmp_path: Path, cli: Melt) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        lacking("mounting a small file system needs root")
    try:
        output = small / "t.melt"
        outcome = cli("profile", tiny_llama, *SHORT, "--max-tokens", 30, "--repeats", 100, "-o", output)
        check_partial_trace(output, outcome)
        assert "No space left on device" in outcome.complaint
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_size_limit_leaves_what_was_written(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.melt"
    command = [MELT, "profile", tiny_llama, *SHORT, "--max-tokens", 30, "--repeats", 100, "-o", output]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    check_partial_trace(output, Outcome(done.returncode, done.stdout, done.stderr))


# The child process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_dies_is_named_and_leaves_its_trace(
    number: signal.Signals, tiny_llama: Path, tmp_path: Path
) -> None:
    # GIVEN a child that has finished five repetitions, of few bytes each
    request = melt.ProfileRequest(
        model=str(tiny_llama), output=str(tmp_path / "t.melt"), levels=("tokens",), prompt_tokens=4, max_tokens=400,
        repeats=100_000, warmup=0, n_threads=1, n_ctx=512,
    )  # fmt: skip

    others = set(psutil.Process().children())  # servers of other tests

    def strike(event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] == 5:
            (child,) = set(psutil.Process().children()) - others
            child.send_signal(number)

    # WHEN it dies
    with pytest.raises(RuntimeFailedError) as raised:
        melt.profile_in_child(request, on_event=strike)
    # THEN the error says of what, and the trace holds what was finished
    assert number.name in str(raised.value)
    assert "\n" not in str(raised.value)
    trace = melt.Trace.open(request.output)
    assert not trace.complete
    assert len(trace.runs) >= 5
    assert trace.summary().decode_tok_s is not None


def test_no_trace_is_promised_that_nobody_will_find(tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN a child that dies when something was measured; before that; and one whose trace goes away with the command
    old = tmp_path / "old.melt"
    old.write_bytes(toy_trace())
    others = set(psutil.Process().children())
    said = []
    for output, is_kept, repetition in (
        (tmp_path / "t.melt", True, 5),
        (old, True, 0),
        (tmp_path / "t.melt", False, 5),
    ):
        request = melt.ProfileRequest(
            model=str(tiny_llama), output=str(output), levels=("tokens",), prompt_tokens=4, max_tokens=400,
            repeats=100_000, warmup=0, n_threads=1, n_ctx=512, overhead_budget_s=0,
        )  # fmt: skip

        def strike(event: dict[str, Any], repetition: int = repetition) -> None:
            if event["event"] == ("repetition" if repetition else "load") and event["done"] == repetition:
                (child,) = set(psutil.Process().children()) - others
                child.kill()

        with pytest.raises(RuntimeFailedError, match="SIGKILL") as raised:
            melt.profile_in_child(request, on_event=strike, is_kept=is_kept)
        said.append(str(raised.value))
    # THEN only the first is told where to look
    assert f"complete chunks of {tmp_path / 't.melt'} stay readable" in said[0]
    assert "nothing was measured before that" in said[1]
    assert old.read_bytes() == toy_trace()
    assert "name a file with -o" in said[2]
    assert str(tmp_path) not in said[2]


def test_the_child_ends_when_its_parent_is_killed(start_python: Any, demo: Path, tmp_path: Path) -> None:
    # GIVEN a child in a repetition that takes minutes
    script = """
import sys, psutil
import melt_core as melt
def tell(event):
    if event["event"] == "repetition":
        print(psutil.Process().children()[0].pid, flush=True)
melt.profile_in_child(melt.ProfileRequest.from_json(sys.argv[1]), on_event=tell)
"""
    request = melt.ProfileRequest(
        model=str(demo), output=str(tmp_path / "t.melt"), prompt_tokens=4, max_tokens=8000, n_ctx=8192, repeats=1,
        warmup=0, n_threads=1, overhead_budget_s=0,
    )  # fmt: skip
    parent = start_python(script, request.to_json())
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        # WHEN the parent is gone
        parent.kill()
        parent.wait(TIMEOUT_S)
        # THEN the child does not measure on, for nobody
        child.wait(timeout=5)
    except psutil.TimeoutExpired:
        pytest.fail("the worker runs on after its parent was killed")
    finally:
        if child.is_running():
            child.kill()
