"""Files that cannot be: damaged or foreign models, places that cannot be written, a child that dies while it writes."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

import melt_core as melt
from fakes.tiny_models import write_model
from melt_core.errors import ModelError, RuntimeFailedError, StorageError

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_space_is_named(tiny_llama: Path, cli: Melt) -> None:
    outcome = cli("profile", tiny_llama, *SHORT, "-o", "/dev/full")
    assert outcome.code == 1
    assert "No space left on device" in outcome.complaint


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
        pytest.skip("mounting a small file system needs root")
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
