"""Arguments that cannot be: one line that says what is wrong, and a model that is as usable as before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import melt_core as melt
from fakes.tiny_models import Dims, write_model
from melt_core.errors import InvalidArgumentError, MeltError, OutOfMemoryError

from .conftest import MELT, SHORT, TIMEOUT_S, Outcome

Melt = Callable[..., Outcome]


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
        with pytest.raises(InvalidArgumentError, match="there is no trace"):  # not an empty one either
            _ = profiler.trace
        # The model is as usable as before.
        with melt.profile(llm) as profiler:
            profiler.run([1, 2], max_tokens=2, warmup=0, overhead_budget_s=0)


class Odd:
    """What no argument can be."""

    def __repr__(self) -> str:
        return "odd\n\0"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "\ud800"}, "model is '\\ud800'"),
        ({"model": "a\0b"}, "model is 'a\\x00b'"),
        ({"model": ""}, "model is ''"),
        ({"model": None}, "model is None: give a path"),
        ({"model": "http://example.org/m.gguf"}, "http://example.org/m.gguf is a URL"),
        ({"runtime": None}, "runtime is None: give a text"),
        ({"runtime": "a\0b"}, "runtime is 'a\\x00b'"),
        ({"device": None}, "device is None"),
        ({"kv_type": None}, "kv_type is None: give a text"),
        ({"kv_type": "\ud800"}, "kv_type is not valid Unicode"),
        ({"kv_type": "f\0"}, "kv_type is 'f\\x00'"),
        ({"n_threads": 1.5}, "n_threads is 1.5: give a whole number"),
        ({"n_ctx": "2048"}, "n_ctx is '2048': give a whole number"),
        ({"n_batch": True}, "n_batch is True: give a number"),
        ({"n_ubatch": Odd()}, "n_ubatch is odd"),
        ({"use_mmap": "no"}, "use_mmap is 'no': give True or False"),
        ({"model_lib": 5}, "model_lib is 5: give a path"),
        ({"runtime_path": 5}, "runtime_path is 5: give a text"),
        ({"on_progress": 5}, "on_progress is 5: give a function or None"),
    ],
    ids=str,
)
def test_arguments_of_another_type_do_not_load(options: dict[str, Any], says: str, tiny_llama: Path) -> None:
    given = {"model": tiny_llama, "n_threads": 1, **options}
    with pytest.raises(InvalidArgumentError) as raised:
        melt.load(given.pop("model"), **given)
    assert str(raised.value).isprintable()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "\ud800"}, "output is '\\ud800'"),
        ({"output": "a\0b"}, "output is 'a\\x00b'"),
        ({"output": ""}, "output is ''"),
        ({"output": 5}, "output is 5: give a path"),
        ({"levels": None}, "levels is None"),
        ({"levels": ["ops\0"]}, "one of levels is 'ops\\x00'"),
        ({"levels": [[]]}, "one of levels is []"),
        ({"sensors": None}, "sensors is None"),
        ({"sensors": [3]}, "one of sensors is 3"),
        ({"sensor_hz": "fast"}, "sensor_hz is 'fast': give a number"),
        ({"log_bytes": 1e6}, "log_bytes is 1000000.0: give a whole number"),
        ({"watch_switches": "no"}, "watch_switches is 'no'"),
        ({"metadata": 5}, "metadata"),
    ],
    ids=str,
)
def test_arguments_of_another_type_do_not_profile(options: dict[str, Any], says: str) -> None:
    with melt.load("layers=1", runtime="synthetic") as llm, pytest.raises(InvalidArgumentError) as raised:
        melt.profile(llm, **options)
    assert str(raised.value).isprintable()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        (None, {}, "the prompt is None"),
        (5, {}, "the prompt is 5"),
        (b"abc", {}, "the prompt is b'abc'"),
        (["a"], {}, "a token id is 'a'"),
        ([1.5], {}, "a token id is 1.5"),
        ([None], {}, "a token id is None"),
        ([True], {}, "token id True"),
        ([1], {"max_tokens": 1.5}, "max_tokens is 1.5: give a whole number"),
        ([1], {"repeats": "2"}, "repeats is '2'"),
        ([1], {"temperature": "x"}, "temperature is 'x': give a number"),
        ([1], {"temperature": 10**400}, "temperature is 1000"),
        ([1], {"top_p": None}, "top_p is None"),
        ([1], {"top_k": 1.5}, "top_k is 1.5"),
        ([1], {"ignore_eos": "no"}, "ignore_eos is 'no'"),
        ([1], {"forced_ids": "abc"}, "forced_ids is 'abc'"),
        ([1], {"forced_ids": [1.5]}, "a token id is 1.5"),
        ([1], {"keep_logits": None}, "keep_logits is None"),
        ([1], {"overhead_budget_s": "x"}, "overhead_budget_s is 'x'"),
        ([1], {"on_repetition": 5}, "on_repetition is 5"),
    ],
    ids=str,
)
def test_arguments_of_another_type_do_not_run(prompt: Any, options: dict[str, Any], says: str) -> None:
    with melt.load("layers=1", runtime="synthetic") as llm, melt.profile(llm) as profiler:
        with pytest.raises(InvalidArgumentError) as raised:
            profiler.run(prompt, **{"max_tokens": 1, "warmup": 0, "overhead_budget_s": 0, **options})
        assert str(raised.value).isprintable()
        assert says in str(raised.value)
        # NumPy's numbers are numbers.
        done = profiler.run(
            np.arange(1, 3), max_tokens=np.int64(2), temperature=np.float32(0), warmup=0, top_k=np.int8(1)
        )
        assert len(done.token_ids) == 2


BAD_REQUESTS = ("", "[]", "5", "{}", "\0", "[" * 100_000, '{"model": 5, "output": "x"}',
                '{"model": "m", "output": "x", "levels": 3}')  # fmt: skip


@pytest.mark.parametrize("text", BAD_REQUESTS, ids=lambda text: text[:30])
def test_a_request_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the request") as raised:
        melt.ProfileRequest.from_json(text)
    assert str(raised.value).isprintable()


def test_a_request_survives_its_own_json() -> None:
    request = melt.ProfileRequest(model="m", output="t.melt", prompt_ids=(1, 2), levels=("tokens",))
    assert melt.ProfileRequest.from_json(request.to_json()) == request


def test_more_threads_than_cpus_are_warned_of_at_once(tiny_llama: Path, cli: Melt) -> None:
    usable = len(os.sched_getaffinity(0))
    threads = ("--threads", usable + 3)
    outcome = cli("profile", tiny_llama, *SHORT, *threads, "--levels", "tokens", "--sensors", "none")
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"melt: warning: {usable + 3} threads on the {usable} CPUs")
    # and none where each has its own
    assert cli("profile", tiny_llama, *SHORT, "--levels", "tokens", "--sensors", "none").err == ""


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
