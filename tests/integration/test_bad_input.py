"""Bad input of any kind: the right error with one line that says what is wrong, and a process that lives on."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

import melt_core as melt
from fakes.tiny_models import Dims, write_model
from fakes.trace_builder import file_header
from melt_core.errors import (
    InvalidArgumentError,
    MeltError,
    ModelError,
    OutOfMemoryError,
    RuntimeFailedError,
    StorageError,
)
from melt_core.models import model_path

from .conftest import MELT, TIMEOUT_S, Outcome

Melt = Callable[..., Outcome]
#: As little as a run can do.
SHORT = (
    "--prompt-tokens",
    4,
    "--max-tokens",
    2,
    "--repeats",
    1,
    "--warmup",
    0,
    "--overhead-seconds",
    0,
    "--threads",
    1,
)


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


# Arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--threads", 0), "n_threads"),
        (("--threads", -1), "n_threads"),
        (("--threads", 100000), "n_threads"),
        (("--threads", "two"), "--threads"),
        (("--ctx", -5), "n_ctx"),
        (("--ctx", 10**12), "n_ctx"),
        (("--batch", 0), "n_batch"),
        (("--batch", -1), "n_batch"),
        (("--ubatch", 0), "n_ubatch"),
        (("--max-tokens", 0), "max_tokens"),
        (("--max-tokens", -1), "max_tokens"),
        (("--repeats", 0), "repeats"),
        (("--repeats", -1), "repeats"),
        (("--warmup", -1), "warmup"),
        (("--seed", -1), "seed"),
        (("--temperature", -1), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--temperature", "inf"), "temperature"),
        (("--overhead-seconds", -1), "overhead"),
        (("--overhead-seconds", "nan"), "overhead"),
        (("--prompt-tokens", 0), "prompt"),
        (("--prompt-tokens", -3), "prompt"),
        (("--prompt-tokens", 64, "--ctx", 64), "--ctx"),
        (("--prompt", "word " * 200, "--ctx", 64), "64"),
        (("--levels", "bogus"), "bogus"),
        (("--levels", ""), "level"),
        (("--runtime", "bogus"), "bogus"),
        (("--chat",), "--prompt"),
        (("--no-such-option",), "--no-such-option"),
    ],
    ids=lambda value: " ".join(map(str, value))[:30] if isinstance(value, tuple) else "",
)
def test_arguments_out_of_range_exit_with_2(arguments: tuple[Any, ...], says: str, tiny_llama: Path, cli: Melt) -> None:
    base = ("--max-tokens", 2, "--repeats", 1, "--warmup", 0, "--overhead-seconds", 0, "--threads", 1)
    outcome = cli("profile", tiny_llama, *base, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.complaint


def test_an_empty_prompt_is_refused_where_the_model_adds_nothing(demo: Path, cli: Melt) -> None:
    outcome = cli("profile", demo, *SHORT[2:], "--prompt", "")
    assert outcome.code == 2
    assert "prompt is empty" in outcome.complaint


def test_a_context_larger_than_memory_is_refused(vocabularies: Path, tmp_path: Path, cli: Melt) -> None:
    # GIVEN a model whose cache takes 4 KB for a token, and a context for more than all memory
    path = write_model(tmp_path / "wide.gguf", dims=Dims(embd=512, heads=2, kv_heads=2, ff=32))
    n_ctx = psutil.virtual_memory().total // 4096 + 100_000
    with pytest.raises(OutOfMemoryError, match="MiB"):
        melt.load(path, n_threads=1, n_ctx=n_ctx).close()
    outcome = cli("profile", path, *SHORT, "--ctx", n_ctx)
    assert outcome.code == 1
    assert "memory" in outcome.complaint


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ([], {}, InvalidArgumentError),
        ([-1], {}, InvalidArgumentError),
        ([2048], {}, InvalidArgumentError),
        ([2**40], {}, InvalidArgumentError),
        ([1] * 64, {}, InvalidArgumentError),
        ("word " * 100, {}, InvalidArgumentError),
        ("half a character \ud800", {}, InvalidArgumentError),
        ([1], {"top_p": 0.0}, InvalidArgumentError),
        ([1], {"top_p": float("nan")}, InvalidArgumentError),
        ([1], {"temperature": float("nan")}, InvalidArgumentError),
        ([1], {"max_tokens": 2**40}, InvalidArgumentError),
        ([1], {"overhead_budget_s": float("inf")}, InvalidArgumentError),
    ],
)
def test_bad_runs_are_refused_before_they_start(
    prompt: Any, options: dict[str, Any], error: type[MeltError], tiny_llama: Path
) -> None:
    with melt.load(tiny_llama, n_threads=1, n_ctx=64) as llm:
        with melt.profile(llm) as profiler, pytest.raises(error) as raised:
            profiler.run(prompt, **{"max_tokens": 2, "warmup": 0, **options})
        assert "\n" not in str(raised.value)
        assert len(profiler.trace.runs) == 0
        # The model is as usable as before.
        with melt.profile(llm) as profiler:
            profiler.run([1, 2], max_tokens=2, warmup=0, overhead_budget_s=0)


def test_a_full_context_ends_the_run(tiny_llama: Path) -> None:
    with melt.load(tiny_llama, n_threads=1, n_ctx=64) as llm, melt.profile(llm) as profiler:
        profiler.run([1] * 60, max_tokens=1000, warmup=0, ignore_eos=True, overhead_budget_s=0)
    (run,) = profiler.trace.runs.to_dicts()
    assert run["stop_reason"] == "context_full"
    assert 1 <= run["n_output"] <= 5


def test_text_that_is_no_utf8_takes_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN an argument that is no UTF-8, as a shell may pass it
    command = [os.fsencode(MELT), b"profile", os.fsencode(tiny_llama), *(str(word).encode() for word in SHORT[2:])]
    done = subprocess.run([*command, b"--prompt", b"a \xff b"], capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 2, done.stderr
    assert b"Invoked with" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


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

    def strike(event: dict[str, Any]) -> None:
        if event["event"] == "repetition" and event["done"] == 5:
            (child,) = psutil.Process().children()
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


# Traces


@pytest.fixture(scope="module")
def trace_bytes(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    path = tmp_path_factory.mktemp("trace") / "t.melt"
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm, output=path) as profiler:
        profiler.run([1, 2, 3], max_tokens=3, repeats=3, warmup=1, ignore_eos=True, overhead_budget_s=0)
    return path.read_bytes()


def commands_on(path: Path) -> list[tuple[str, ...]]:
    return [("summary", str(path)), ("ops", str(path), "--by", "module"), ("ops", str(path), "--json")]


def test_a_trace_cut_short_is_read_as_far_as_it_goes(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "cut.melt"
    for n_bytes in (len(trace_bytes) - 1, len(trace_bytes) // 2, 100):
        path.write_bytes(trace_bytes[:n_bytes])
        for command in commands_on(path):
            outcome = cli(*command)
            assert outcome.code == 0, outcome.err
            assert "melt: warning:" in outcome.err
            assert "Traceback" not in outcome.err


@pytest.mark.parametrize("n_bytes", [0, 3, 63])
def test_a_trace_without_its_head_is_refused(n_bytes: int, trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "cut.melt"
    path.write_bytes(trace_bytes[:n_bytes])
    for command in commands_on(path):
        outcome = cli(*command)
        assert (outcome.code, outcome.out) == (1, "")
        assert str(path) in outcome.complaint


def test_flipped_bytes_are_noticed(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "flipped.melt"
    for at in range(70, len(trace_bytes), len(trace_bytes) // 12):
        data = bytearray(trace_bytes)
        data[at] ^= 0xFF
        path.write_bytes(data)
        for command in commands_on(path)[:2]:
            outcome = cli(*command)
            # Bytes that only pad a chunk to a multiple of 8 may be anything.
            assert outcome.code == 0, (at, outcome.err)
            assert "Traceback" not in outcome.err
        assert "melt: warning:" in outcome.err or data[at] == 0xFF, at


def test_a_damaged_or_newer_head_is_refused(trace_bytes: bytes, tmp_path: Path, cli: Melt) -> None:
    path = tmp_path / "other.melt"
    for data, says in (
        (trace_bytes[:30] + bytes([trace_bytes[30] ^ 1]) + trace_bytes[31:], "damaged"),
        (file_header(major=2) + trace_bytes[64:], "newer"),
        (b"GGUF" + trace_bytes[4:], "not a melt trace"),
    ):
        path.write_bytes(data)
        for command in commands_on(path):
            outcome = cli(*command)
            assert (outcome.code, outcome.out) == (1, "")
            assert says in outcome.complaint


def test_names_that_are_not_there_exit_with_an_error(cli: Melt, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nosuch"):
        model_path("nosuch")
    assert cli("models", "path", "nosuch").code == 1
    assert cli("summary", tmp_path / "none.melt").code == 1
    assert cli("nosuch").code == 2
    assert cli().code == 2
