"""Arguments that cannot be: one line that says what is wrong, and a model that is as usable as before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
