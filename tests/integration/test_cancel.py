"""Ctrl-C and cancel: a run ends between two ops, and what was measured until then is in a complete trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt

from .conftest import MELT, TIMEOUT_S

StartPython = Callable[..., subprocess.Popen[str]]

#: A run ends within 200 ms on an idle machine, by design. Here the machine may be building something on all cores.
SOON_S = 1.0

RUN_UNTIL_INTERRUPTED = """
import json, sys, time
import melt_core as melt
model, output, n_ctx, max_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def tell(done, total):
    if done == 4:
        print("running", flush=True)
with melt.load(model, n_threads=1, n_ctx=n_ctx) as llm:
    try:
        with melt.profile(llm, output=output) as profiler:
            try:
                profiler.run([1, 2, 3], max_tokens=max_tokens, repeats=1000000, warmup=1, ignore_eos=True,
                             overhead_budget_s=0, on_repetition=tell)
            except KeyboardInterrupt:
                ended_s = time.monotonic()
                raise
    except KeyboardInterrupt:
        pass
    # The model is as usable as before.
    with melt.profile(llm) as again:
        again.run([1, 2, 3], max_tokens=2, warmup=0, overhead_budget_s=0)
print(json.dumps({"ended_s": ended_s, "again": len(again.trace.runs), "complete": profiler.trace.complete}))
"""


def interrupted(start_python: StartPython, *arguments: object) -> tuple[float, dict[str, Any]]:
    """Interrupts the script once it runs; returns how long the run took to end, and what the script said."""
    child = start_python(RUN_UNTIL_INTERRUPTED, *arguments)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    sent_s = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, err
    said = json.loads(out.splitlines()[-1])
    return said["ended_s"] - sent_s, said


def test_ctrl_c_ends_a_run_soon_and_keeps_what_was_finished(
    start_python: StartPython, tiny_llama: Path, tmp_path: Path
) -> None:
    output = tmp_path / "t.melt"
    delay_s, said = interrupted(start_python, tiny_llama, output, 256, 8)
    assert delay_s < SOON_S
    assert said["again"] == 1
    assert said["complete"]
    trace = melt.Trace.open(output)
    assert trace.complete
    *finished, last = trace.runs.to_dicts()
    assert last["stop_reason"] in ("cancelled", "limit")  # the signal may fall between two repetitions
    assert len(finished) >= 3
    assert {run["stop_reason"] for run in finished} == {"limit"}
    assert {run["n_output"] for run in finished} == {8}


def test_ctrl_c_ends_the_decode_of_a_real_model_between_two_ops(
    start_python: StartPython, demo: Path, tmp_path: Path
) -> None:
    # GIVEN a repetition that would take minutes
    output = tmp_path / "t.melt"
    script = RUN_UNTIL_INTERRUPTED.replace("warmup=1", "warmup=0").replace("done == 4", "done == 0")
    child = start_python(script, demo, output, 8192, 8000)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    time.sleep(0.5)  # from the callback that printed this into the run: nothing can be polled for that
    sent_s = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, err
    # THEN it ends soon, and its trace says what it was
    assert json.loads(out.splitlines()[-1])["ended_s"] - sent_s < SOON_S
    trace = melt.Trace.open(output)
    assert trace.complete
    assert trace.warnings == []
    (run,) = trace.runs.to_dicts()
    assert run["stop_reason"] == "cancelled"
    assert run["n_dropped"] == 0
    assert str(trace.summary())
    assert len(trace.key_averages()) >= 0


def test_cancel_from_another_thread_ends_the_run(demo: Path) -> None:
    with melt.load(demo, n_threads=1, n_ctx=2048) as llm, melt.profile(llm) as profiler:
        over = threading.Event()

        def cancel_until_over() -> None:
            while not over.wait(0.01):
                llm.cancel()  # before a run has begun it means nothing

        thread = threading.Thread(target=cancel_until_over)
        thread.start()
        try:
            cut = profiler.run("Once", max_tokens=2000, ignore_eos=True, warmup=0, repeats=50, overhead_budget_s=0)
        finally:
            over.set()
            thread.join()
        # A cancel of before does not end the next run.
        llm.cancel()
        done = profiler.run("Once", max_tokens=3, ignore_eos=True, warmup=0, overhead_budget_s=0)
    assert len(done.token_ids) == 3
    assert (cut.cancelled, done.cancelled) == (True, False)
    assert profiler.trace.complete
    cancelled, after = profiler.trace.runs.to_dicts()
    assert (cancelled["stop_reason"], after["stop_reason"]) == ("cancelled", "limit")
    assert cancelled["n_output"] < 2000
    # What was cut off does not count where a whole run is there.
    assert profiler.trace.summary().n_runs == 1


@pytest.mark.parametrize("n_prompt", [300, 4])  # prefill pairs take all of the budget, or hardly any of it
@pytest.mark.parametrize("delay_s", [0.05, 0.3, 0.6, 1.2])
def test_cancel_while_the_overhead_is_measured(tiny_llama: Path, n_prompt: int, delay_s: float) -> None:
    # GIVEN a run that measures its overhead for seconds, behind no warm-up
    with melt.load(tiny_llama, n_threads=1, n_ctx=512) as llm, melt.profile(llm) as profiler:
        timer = threading.Timer(delay_s, llm.cancel)
        timer.start()
        # WHEN it is cancelled meanwhile
        profiler.run(range(1, 1 + n_prompt), max_tokens=8, warmup=0, ignore_eos=True, overhead_budget_s=0.5)
        timer.join()
        # THEN that is no error, and the model goes on
        done = profiler.run([1, 2], max_tokens=3, warmup=0, ignore_eos=True, overhead_budget_s=0)
    assert len(done.token_ids) == 3
    assert profiler.trace.complete
    assert profiler.trace.runs.to_dicts()[-1]["stop_reason"] == "limit"


def test_a_cancel_is_not_forgotten_for_a_run_that_is_refused(demo: Path) -> None:
    with melt.load(demo, n_threads=1, n_ctx=4096) as llm, melt.profile(llm) as profiler, melt.profile(llm) as other:
        refused = []

        def cancel_and_run_beside(done: int, total: int) -> None:
            llm.cancel()
            thread = threading.Thread(target=run_beside)
            thread.start()
            thread.join()

        def run_beside() -> None:
            try:
                other.run([1], max_tokens=1, warmup=0, overhead_budget_s=0)
            except melt.BusyError as error:
                refused.append(error)

        run_of = {"max_tokens": 4000, "warmup": 0, "ignore_eos": True, "overhead_budget_s": 0}
        profiler.run([1, 2], on_repetition=cancel_and_run_beside, **run_of)
    assert len(refused) == 1
    assert profiler.trace.runs.to_dicts()[0]["stop_reason"] == "cancelled"


@pytest.mark.parametrize("what", ["close", "finish", "run"])
def test_what_would_wait_for_its_own_run_is_refused(tiny_llama: Path, what: str) -> None:
    with melt.load(tiny_llama, n_threads=1) as llm, melt.profile(llm) as profiler:
        inner = {
            "close": llm.close,
            "finish": profiler.finish,
            "run": lambda: profiler.run([1], max_tokens=1, warmup=0, overhead_budget_s=0),
        }[what]
        with pytest.raises(melt.BusyError, match="within a run of this model"):
            profiler.run([1], max_tokens=2, warmup=0, overhead_budget_s=0, on_repetition=lambda done, total: inner())
        profiler.run([1], max_tokens=2, warmup=0, overhead_budget_s=0)
    assert profiler.trace.complete


TWO_RUNS = """
import os, signal, sys, threading, time
import melt_core as melt
def run(llm, started):
    with melt.profile(llm, levels=("tokens",)) as profiler:
        try:
            profiler.run([1, 2], max_tokens=100000, repeats=100000, warmup=0, ignore_eos=True,
                         on_repetition=lambda done, total: started.set())
        except KeyboardInterrupt:
            pass
    return profiler.trace.runs.to_dicts()[-1]["stop_reason"]
with melt.load(sys.argv[1], n_threads=1) as first, melt.load(sys.argv[1], n_threads=1) as second:
    started, reasons = threading.Event(), []
    thread = threading.Thread(target=lambda: reasons.append(run(first, started)))
    thread.start()
    started.wait()
    begun = threading.Event()
    threading.Thread(target=lambda: (begun.wait(), time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT))).start()
    reasons.append(run(second, begun))
    thread.join()
print(*reasons)
"""


def test_ctrl_c_ends_every_run_of_the_process(start_python: StartPython, tiny_llama: Path) -> None:
    # GIVEN a run in another thread, which began first, and one in the main thread
    child = start_python(TWO_RUNS, tiny_llama)
    out, err = child.communicate(timeout=TIMEOUT_S)
    # THEN Ctrl-C ends both
    assert child.returncode == 0, err
    assert out.split() == ["cancelled", "cancelled"]


def test_text_and_close_at_once_are_safe(tiny_llama: Path) -> None:
    for _ in range(5):
        llm = melt.load(tiny_llama, n_threads=1)
        closed = []

        def encode_until_closed(llm: melt.LLM, closed: list[str]) -> None:
            try:
                while True:
                    llm.encode("Once upon a time " * 200)
            except melt.InvalidArgumentError as error:
                closed.append(str(error))

        threads = [threading.Thread(target=encode_until_closed, args=(llm, closed)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        llm.close()
        for thread in threads:
            thread.join()
        assert closed == ["this model has been closed: load it again"] * 3


def test_closing_from_another_thread_waits_for_the_run(tiny_llama: Path) -> None:
    llm = melt.load(tiny_llama, n_threads=1)
    with melt.profile(llm, levels=("tokens",)) as profiler:
        thread = threading.Thread(target=llm.close)
        closing = threading.Event()

        def close_beside(done: int, total: int) -> None:
            if not closing.is_set():
                closing.set()
                thread.start()

        done = profiler.run([1, 2], max_tokens=200, warmup=0, repeats=3, ignore_eos=True, on_repetition=close_beside)
        thread.join()
    assert len(done.token_ids) == 200
    assert len(profiler.trace.runs) == 3


INTERRUPT_LOAD = """
import os, signal, sys
import melt_core as melt
seen = []
def interrupt(done):
    seen.append(done)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGINT)
try:
    melt.load(sys.argv[1], on_progress=interrupt).close()
    print("loaded")
except BaseException as error:
    print(type(error).__name__)
with melt.load(sys.argv[1], n_threads=1) as llm:
    print(llm.info.n_layer)
"""


def test_ctrl_c_ends_loading(start_python: StartPython, demo: Path) -> None:
    # GIVEN a signal that arrives in the progress callback, in the very thread that loads
    child = start_python(INTERRUPT_LOAD, demo)
    out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, err
    # THEN loading ends, not as a fault of the file; and the process can load again
    assert out.split() in (["KeyboardInterrupt", "30"], ["CancelledError", "30"])


def test_an_error_in_the_progress_callback_reaches_the_caller(tiny_llama: Path) -> None:
    def fail(done: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        melt.load(tiny_llama, n_threads=1, on_progress=fail)


def start_cli(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(MELT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_ctrl_c_on_the_command_line_leaves_a_valid_trace(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.melt"
    command = start_cli(
        "profile", tiny_llama, "--prompt-tokens", 4, "--max-tokens", 8, "--repeats", 1000000, "--warmup", 0,
        "--threads", 1, "--overhead-seconds", 0, "-o", output,
    )  # fmt: skip
    try:
        wait_until(lambda: output.exists() and output.stat().st_size > 200_000)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=TIMEOUT_S)
    finally:
        command.kill()
        command.communicate()
    assert (command.returncode, out) == (130, "")
    assert err == "melt: error: interrupted\n"
    trace = melt.Trace.open(output)
    assert trace.complete
    assert trace.warnings == []
    assert trace.summary().n_runs >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN a profile without -o, whose trace is in a temporary folder
    temporary, output = tmp_path / "temporary", tmp_path / "t.melt"
    temporary.mkdir()
    base = (
        "profile", tiny_llama, "--prompt-tokens", 4, "--max-tokens", 8, "--repeats", 1000000, "--warmup", 0,
        "--threads", 1, "--overhead-seconds", 0,
    )  # fmt: skip

    def grown(folder: Path) -> bool:
        return any(path.stat().st_size > 200_000 for path in folder.rglob("*.melt"))

    # WHEN a signal ends it, or one that keeps its trace
    for options, folder in (((), temporary), (("-o", output), tmp_path)):
        command = start_cli(*base, *options, env={"TMPDIR": str(temporary)})
        try:
            wait_until(lambda folder=folder: grown(folder))  # type: ignore[misc]
            command.send_signal(number)
            out, err = command.communicate(timeout=TIMEOUT_S)
        finally:
            command.kill()
            command.communicate()
        # THEN a shell sees which it was, nothing is left, and what was to be kept is complete
        assert (command.returncode, out) == (128 + number, "")
        assert err == f"melt: error: {'interrupted' if number == signal.SIGINT else f'ended by {number.name}'}\n"
        assert list(temporary.iterdir()) == []
    assert melt.Trace.open(output).complete


@pytest.mark.parametrize("loaded", [False, True])
def test_ctrl_c_before_anything_was_measured(loaded: bool, demo: Path, tmp_path: Path) -> None:
    command = start_cli("profile", demo, "--ctx", 8192, "--max-tokens", 8000, "--threads", 1, "-o", tmp_path / "t.melt")
    try:
        wait_until(lambda: bool(list(tmp_path.iterdir())) or command.poll() is not None)
        time.sleep(2 if loaded else 0)  # warming up takes much longer
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=TIMEOUT_S)
    finally:
        command.kill()
        command.communicate()
    assert command.returncode == 130
    assert err == "melt: error: interrupted\n"
    output = tmp_path / "t.melt"
    if loaded or output.exists():  # else there was nothing to put there, and no empty file is left either
        assert melt.Trace.open(output).complete
