"""One question to one child process: a JSON line in, a JSON line out, bounded in time, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from melt_core import errors
from melt_core.errors import MeltError, RuntimeFailedError


def ask(module: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Runs a module of this package as a child process and returns its answer.

    The child ends when this process does: its standard input closes. It is killed when this call is left by an
    exception, Ctrl-C included.

    Args:
        module: A module whose ``main`` reads a JSON line and prints one.
        request: The question.
        timeout_s: After so many seconds the child is killed.

    Raises:
        MeltError: Whatever the child raised, with its class.
        RuntimeFailedError: The child died or took too long.
    """
    timed_out = threading.Event()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C at the terminal reaches us alone, and we end the child
        )

        def end() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            answer = _converse(child, request)
        finally:
            timer.cancel()
            end_now(child)
        if answer is None:
            raise _death(child.returncode, log, timeout_s if timed_out.is_set() else None)
    if "error" in answer:
        kind: type[MeltError] = getattr(errors, answer["error"], RuntimeFailedError)
        raise kind(answer["message"])
    return answer


def answer(execute: Any) -> int:
    """The child's side: answers the request on standard input with what ``execute(request)`` returns.

    Returns:
        The exit code.
    """
    # Whatever a runtime prints must not get into the answer.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        reply = execute(request)
    except MeltError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        reply = {"error": "OutOfMemoryError", "message": "memory ran out"}
    print(json.dumps(reply), file=replies, flush=True)
    return 1 if "error" in reply else 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _converse(child: subprocess.Popen[str], request: dict[str, Any]) -> dict[str, Any] | None:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit says why
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()  # left open: it closes when we die
    line = child.stdout.readline()
    if not line.endswith("\n"):
        child.wait()
        return None
    reply: dict[str, Any] = json.loads(line)
    return reply


def end_now(child: subprocess.Popen[str]) -> None:
    """Kills a child that still runs and closes its pipes."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def how_it_ended(returncode: int, log: IO[str]) -> str:
    """Words the end of a child that could not say anything itself, with the last line of what it printed."""
    log.seek(0)
    lines = [line.strip() for line in log.read()[-4096:].splitlines() if line.strip()]
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    if returncode == -signal.SIGKILL:
        how += ", as when memory runs out"
    return f"{how}: {lines[-1]}" if lines else how


def _death(returncode: int, log: IO[str], timeout_s: float | None) -> RuntimeFailedError:
    if timeout_s is not None:
        return RuntimeFailedError(f"the child process gave no answer within {timeout_s:.0f} s")
    return RuntimeFailedError(f"the child process ended by {how_it_ended(returncode, log)}")
