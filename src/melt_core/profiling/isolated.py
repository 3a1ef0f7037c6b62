"""Profiles a model file in a child process, so that a runtime that aborts takes nothing else with it.

ggml ends the process on some damaged files and failed checks; the command line never loads a model in its own.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melt_core import errors
from melt_core.errors import MeltError, RuntimeFailedError
from melt_core.profiling.child import end_now, how_it_ended
from melt_core.profiling.request import ProfileRequest
from melt_core.trace import Trace
from melt_core.trace.storage import check_trace_output

#: How long a child may take to end after Ctrl-C before it is killed.
GRACE_S = 10.0


@dataclass(frozen=True)
class ProfileResult:
    """What a child process measured and said."""

    trace: Trace
    output_text: str
    prompt_token_ids: tuple[int, ...]


def profile_in_child(
    request: ProfileRequest, *, on_event: Callable[[dict[str, Any]], None] | None = None, is_kept: bool = True
) -> ProfileResult:
    """Loads and profiles a model in a child process; the trace is at ``request.output``.

    Args:
        request: What to do.
        on_event: Called with each progress event, see `melt_core.profiling.worker`.
        is_kept: Whether the trace outlives a failure: where it does not, no message says that it is there.

    Raises:
        InvalidArgumentError: ``request.output`` is the model, or another file that is no trace.
        MeltError: Whatever the child raised, with its class.
        RuntimeFailedError: The child died; what it had written is at ``request.output`` and readable.
        KeyboardInterrupt: After Ctrl-C, once the child has completed its trace.
    """
    output = check_trace_output(request.output, inputs=[request.model])
    last = run_worker(
        "melt_core.profiling.worker",
        request.to_json(),
        output=output if is_kept else None,
        name=request.runtime,
        on_event=on_event,
    )
    return ProfileResult(Trace.open(request.output), last["output_text"], tuple(last["prompt_token_ids"]))


def run_worker(
    module: str, line: str, *, output: str | None, name: str, on_event: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Runs a worker on one line of request and returns its last event.

    Args:
        module: A module whose ``main`` is `melt_core.profiling.worker.serve`.
        line: The request.
        output: The trace that it writes, for messages; None: one that nobody will find.
        name: The runtime, for messages.
        on_event: Called with each event.

    Raises: as `profile_in_child` does.
    """
    before = _state_of(output)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # A session of its own: Ctrl-C reaches it once, through us, and not a second time from the terminal.
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            last = _converse(child, line, on_event)
        except KeyboardInterrupt:
            _end(child)
            raise
        finally:
            end_now(child)
        if last.get("event") == "error":
            raise _error_of(last)
        if last.get("event") != "done":
            raise _death(how_it_ended(child.returncode, log), name, output, is_new=_state_of(output) != before)
    return last


def _converse(
    child: subprocess.Popen[str], line: str, on_event: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any]:
    """Sends the request and returns the child's last event, or an empty one if it died before."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit says why
        child.stdin.write(line + "\n")
        child.stdin.flush()  # left open: when we die it closes, and the child ends its run
    last: dict[str, Any] = {}
    for event in child.stdout:
        last = json.loads(event)
        if on_event is not None:
            on_event(last)
    child.wait()
    return last


def _end(child: subprocess.Popen[str]) -> None:
    """Passes Ctrl-C on and gives the child time to complete its trace."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GRACE_S)


def _error_of(event: dict[str, Any]) -> MeltError:
    kind = getattr(errors, event["kind"], RuntimeFailedError)
    error: MeltError = kind(event["message"])
    return error


def _state_of(output: str | None) -> tuple[int, int, int] | None:
    """Returns what tells a trace that was begun from what was there before; None where nothing is."""
    try:
        status = Path(output or "").stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None


def _death(how: str, name: str, output: str | None, *, is_new: bool) -> RuntimeFailedError:
    if output is None:
        kept = "name a file with -o to keep what is measured before that"
    elif is_new:
        kept = f"complete chunks of {output} stay readable"
    else:
        kept = "nothing was measured before that"
    return RuntimeFailedError(f"the {name} process ended by {how} ({kept})")
