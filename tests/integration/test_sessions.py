"""Models alone, together and after their end: outputs that repeat, recordings that do not see each other."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt
from melt_core.errors import BusyError, InvalidArgumentError

from .conftest import TIMEOUT_S
from .demo_runs import N_GROUPS, N_OUTPUT, PROMPT, generate

# The same output


def test_greedy_output_is_the_same_each_time_and_at_each_level(llm: melt.LLM, demo: Path) -> None:
    with melt.profile(llm, levels=("tokens", "ops")) as profiler:
        first = profiler.run(PROMPT, max_tokens=8, repeats=2, warmup=1, overhead_budget_s=0)
    ids = {tuple(r["token_id"] for r in profiler.trace.tokens.to_dicts() if r["run"] == run) for run in range(3)}
    assert ids == {first.token_ids}
    assert generate(llm, max_tokens=8).token_ids == first.token_ids
    assert llm.decode(first.token_ids) == first.text


def test_drawing_depends_on_the_seed_only(llm: melt.LLM) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return generate(llm, "Once", max_tokens=8, temperature=2.0, top_k=1000, top_p=1.0, seed=seed).token_ids

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in (1, 2, 3)}) > 1


def test_a_prompt_longer_than_a_batch_is_split(llm: melt.LLM, demo: Path) -> None:
    # GIVEN a prompt of more tokens than a batch holds
    ids = llm.encode("The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is")
    with melt.load(demo, n_threads=1, n_ctx=512, n_batch=16) as small, melt.profile(small) as split:
        in_parts = split.run(ids, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    with melt.profile(llm) as whole:
        at_once = whole.run(ids, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    # THEN there are more graphs, and the same output
    assert 16 < len(ids) <= 32
    assert in_parts.token_ids == at_once.token_ids
    assert [len(p.trace.graphs) for p in (split, whole)] == [N_OUTPUT + 1, N_OUTPUT]
    assert [row["n_tokens"] for row in split.trace.tokens.to_dicts()][:1] == [len(ids)]
    assert split.trace.runs.to_dicts()[0]["n_dropped"] == 0


def test_a_prompt_as_text_and_as_ids_is_the_same(llm: melt.LLM) -> None:
    as_text = generate(llm)
    assert generate(llm, as_text.prompt_token_ids).token_ids == as_text.token_ids


def test_chat_format_is_the_models_own(llm: melt.LLM) -> None:
    text = llm.format_chat([("user", "Hi")])
    assert text.endswith("<|im_start|>assistant\n")
    assert "<|im_start|>user\nHi<|im_end|>" in text


def test_a_message_is_put_into_the_chat_format_by_the_run(llm: melt.LLM) -> None:
    by_hand = generate(llm, llm.format_chat([("user", "Hi")]))
    assert generate(llm, "Hi", chat=True) == by_hand


def test_random_tokens_are_those_of_the_seed(llm: melt.LLM) -> None:
    prompts = [generate(llm, None, prompt_tokens=6, seed=seed).prompt_token_ids for seed in (1, 1, 2)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert all(len(ids) == 6 for ids in prompts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "the prompt is None"),
        ({"prompt": "x", "prompt_tokens": 3}, "one of them"),
        ({"prompt_tokens": 3, "chat": True}, "chat needs a prompt of text"),
        ({"prompt": [1], "chat": True}, "chat needs a prompt of text"),
        ({"prompt_tokens": -1}, "prompt_tokens is -1"),
        ({"prompt_tokens": 0}, "a prompt of 0 tokens"),
        ({"prompt": "x", "idle_s": 601}, "idling of 601 s"),
    ],
)
def test_what_is_no_prompt_is_refused(llm: melt.LLM, options: dict[str, Any], said: str) -> None:
    with melt.profile(llm) as profiler, pytest.raises(InvalidArgumentError, match=said):
        profiler.run(**options)


# Alone, together and after the end


def test_two_models_in_one_process_are_both_usable(llm: melt.LLM, tiny_llama: Path) -> None:
    before = generate(llm).token_ids
    with melt.load(tiny_llama, n_threads=1) as other:
        assert other.info.n_vocab != llm.info.n_vocab
        assert len(generate(other, levels=("tokens", "ops"), ignore_eos=True).token_ids) == N_OUTPUT
        assert generate(llm, levels=("tokens", "ops")).token_ids == before
    assert generate(llm, levels=("tokens", "ops")).token_ids == before


def test_two_recordings_at_once_do_not_see_each_other(llm: melt.LLM, tiny_llama: Path) -> None:
    # GIVEN a long recording in one thread
    traces: list[melt.Trace] = []

    def record_long() -> None:
        with melt.profile(llm) as profiler:
            profiler.run(PROMPT, max_tokens=100, ignore_eos=True, warmup=0, overhead_budget_s=0)
        traces.append(profiler.trace)

    expected = generate(llm, max_tokens=100, ignore_eos=True).token_ids
    thread = threading.Thread(target=record_long)
    n_beside = 0
    with melt.load(tiny_llama, n_threads=1) as other:
        thread.start()
        # WHEN another model is recorded at the same time, again and again
        while thread.is_alive():
            with melt.profile(other) as profiler:
                profiler.run([1, 2, 3], max_tokens=5, warmup=0, ignore_eos=True, overhead_budget_s=0)
            # THEN each trace holds its own graphs, and all of them
            run = profiler.trace.runs.to_dicts()[0]
            assert (run["n_graphs"], run["n_dropped"]) == (5, 0)
            n_beside += 1
        thread.join()
    assert n_beside > 0
    run = traces[0].runs.to_dicts()[0]
    assert (run["n_groups"], run["n_dropped"]) == (100 * N_GROUPS, 0)
    assert traces[0].summary().output_token_ids == expected


def test_one_model_runs_once_at_a_time(llm: melt.LLM) -> None:
    # GIVEN a long run of a model
    started = threading.Event()

    def run_long() -> None:
        with melt.profile(llm, levels=("tokens",)) as profiler:
            profiler.run(PROMPT, max_tokens=100, ignore_eos=True, warmup=0, on_repetition=lambda *_: started.set())

    thread = threading.Thread(target=run_long)
    thread.start()
    started.wait()
    # WHEN it is to run in another thread at the same time THEN that is refused
    with pytest.raises(BusyError, match="already running"):
        generate(llm, [1, 2, 3])
    thread.join()
    generate(llm, [1, 2, 3])  # AND it is free again


#: Records the ops of one model while another one runs unrecorded in a second thread.
BYSTANDER = """
import json, sys, threading
import melt_core as melt
ended = threading.Event()
def run_beside():
    while not ended.is_set():
        with melt.profile(bystander, levels=("tokens",)) as profiler:
            profiler.run([5, 6, 7], max_tokens=20, warmup=0, ignore_eos=True)
with melt.load(sys.argv[1], n_threads=1) as recorded, melt.load(sys.argv[1], n_threads=1) as bystander:
    thread = threading.Thread(target=run_beside)
    thread.start()
    try:
        with melt.profile(recorded) as profiler:
            profiler.run([1, 2, 3], max_tokens=100, repeats=5, warmup=0, ignore_eos=True, overhead_budget_s=0)
    finally:
        ended.set()
        thread.join()
print(json.dumps([[run["n_graphs"], run["n_groups"], run["n_dropped"]] for run in profiler.trace.runs.to_dicts()]))
"""


def test_a_model_that_runs_beside_a_recording_is_not_in_it(start_python: Any, tiny_llama: Path) -> None:
    # In a process of its own: what goes wrong here may overwrite memory.
    child = start_python(BYSTANDER, tiny_llama)
    out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, err[-500:]
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm) as alone:
        alone.run([1, 2, 3], max_tokens=100, warmup=0, ignore_eos=True, overhead_budget_s=0)
    (run,) = alone.trace.runs.to_dicts()
    assert json.loads(out) == [[run["n_graphs"], run["n_groups"], 0]] * 5


def test_a_model_runs_once_at_a_time(tiny_llama: Path) -> None:
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm, levels=("tokens",)) as profiler:

        def run_again(done: int, total: int) -> None:
            with pytest.raises(BusyError, match="already running"):
                profiler.run([1, 2], max_tokens=1)

        profiler.run([1, 2], max_tokens=1, warmup=0, on_repetition=run_again)
    assert len(profiler.trace.runs) == 1


def test_closing_twice_is_harmless_and_use_after_it_is_refused(tiny_llama: Path) -> None:
    llm = melt.load(tiny_llama, n_threads=1)
    profiler = melt.profile(llm, levels=("tokens",))
    with profiler:
        profiler.run([1, 2], max_tokens=1, warmup=0)
        llm.close()
        llm.close()
        for use in (
            lambda: llm.info,
            lambda: llm.encode("x"),
            lambda: llm.decode([1]),
            lambda: melt.profile(llm),
            lambda: profiler.run([1], max_tokens=1),
        ):
            with pytest.raises(InvalidArgumentError, match="closed"):
                use()
        llm.cancel()  # nothing to cancel is no error
    assert "unload" in {row["phase"] for row in profiler.trace.phases.to_dicts()}
    profiler.finish()
    with pytest.raises(InvalidArgumentError, match=r"finished|closed"):
        profiler.run([1], max_tokens=1)


def test_an_error_in_the_callers_code_leaves_a_complete_trace(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.melt"
    with melt.load(tiny_llama, n_threads=1) as llm:

        def fail(done: int, total: int) -> None:
            if done == 2:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), melt.profile(llm, output=path) as profiler:
            profiler.run([1, 2], max_tokens=2, warmup=0, repeats=5, overhead_budget_s=0, on_repetition=fail)
    trace = melt.Trace.open(path)
    assert trace.complete
    assert len(trace.runs) == 2
