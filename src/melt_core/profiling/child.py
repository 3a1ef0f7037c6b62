"""One request to one child process, so that a runtime that aborts takes nothing else with it.

In: one line. Out: events as JSON lines, ``{"event": name, ...}``, the last of which is ``done``, with the answer, or
``{"event": "error", "kind": class name, "message": text}``. A child never outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from melt_core import errors
from melt_core.errors import MeltError, RuntimeFailedError

#: How long a child may take to complete its trace after Ctrl-C, and after the parent's death.
GRACE_S = 10.0

#: Tells of an event.
Send = Callable[..., None]


def ask(
    module: str,
    line: str,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    timeout_s: float | None = None,
    died: Callable[[str], RuntimeFailedError] | None = None,
) -> dict[str, Any]:
    """Runs a module of this package as a child process and returns its answer.

    Args:
        module: A module whose ``main`` is `serve`.
        line: The request.
        on_event: Called with each event.
        timeout_s: After so many seconds the child is killed; None: never.
        died: Words the death of a child, given how it ended.

    Raises:
        MeltError: Whatever the child raised, with its class.
        RuntimeFailedError: The child died or took too long.
        KeyboardInterrupt: After Ctrl-C, once the child has ended what it did.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches it once, through us, and not a second time from the terminal
        )
        limit = _Limit(child, timeout_s)
        try:
            last = _converse(child, line, on_event)
        except KeyboardInterrupt:
            _interrupt(child)
            raise
        finally:
            limit.lift()
            _end_now(child)
        event = last.pop("event", None)
        if event == "error":
            kind: type[MeltError] = getattr(errors, last["kind"], RuntimeFailedError)
            raise kind(last["message"])
        if event != "done":
            if limit.is_passed:
                raise RuntimeFailedError(f"the child process gave no answer within {timeout_s:.0f} s")
            how = _how_it_ended(child.returncode, log)
            raise died(how) if died else RuntimeFailedError(f"the child process ended by {how}")
    return last


def serve(execute: Callable[[str, Send], dict[str, Any]]) -> int:
    """The child's side: answers the line on standard input with what ``execute(line, send)`` returns.

    Returns:
        The exit code.
    """
    # Whatever a runtime prints must not get between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=events, flush=True)

    line = sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        send("done", **execute(line, send))
        return 0
    except KeyboardInterrupt:
        send("error", kind="CancelledError", message="cancelled; what was measured before is in the trace")
    except MeltError as error:
        send("error", kind=type(error).__name__, message=str(error))
    except MemoryError:
        send("error", kind="OutOfMemoryError", message="out of memory")
    return 1


def _end_with_parent() -> None:
    """Waits for the parent's end of standard input to close, which its death does too; then nobody waits for us."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(1)


class _Limit:
    """Kills a child after so many seconds."""

    def __init__(self, child: subprocess.Popen[str], timeout_s: float | None) -> None:
        self.is_passed = False
        self._child = child
        self._timer = None if timeout_s is None else threading.Timer(timeout_s, self._pass)
        if self._timer is not None:
            self._timer.start()

    def lift(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _pass(self) -> None:
        self.is_passed = True
        self._child.kill()


def _converse(
    child: subprocess.Popen[str], line: str, on_event: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any]:
    """Sends the request and returns the child's last event, or an empty one if it died before."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit says why
        child.stdin.write(line + "\n")
        child.stdin.flush()  # left open: when we die it closes, and the child ends
    last: dict[str, Any] = {}
    for text in child.stdout:
        if not text.endswith("\n"):  # it died within it
            last = {}
            break
        last = json.loads(text)
        if on_event is not None:
            on_event(last)
    child.wait()
    return last


def _interrupt(child: subprocess.Popen[str]) -> None:
    """Passes Ctrl-C on and gives the child time to complete its trace."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GRACE_S)


def _end_now(child: subprocess.Popen[str]) -> None:
    """Kills a child that still runs and closes its pipes."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _how_it_ended(returncode: int, log: IO[str]) -> str:
    """Words the end of a child that could not say anything itself, with the last line of what it printed."""
    log.seek(0)
    lines = [line.strip() for line in log.read()[-4096:].splitlines() if line.strip()]
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    if returncode == -signal.SIGKILL:
        how += ", as when memory runs out"
    return f"{how}: {lines[-1]}" if lines else how
