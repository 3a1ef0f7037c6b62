"""Profiles a model file in a child process, so that a runtime that aborts takes nothing else with it.

ggml ends the process on some damaged files and failed checks; the command line never loads a model in its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melt_core.errors import RuntimeFailedError
from melt_core.profiling.child import ask
from melt_core.profiling.request import ProfileRequest
from melt_core.trace import Trace
from melt_core.trace.storage import check_trace_output


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
    """Runs a worker that writes a trace on one line of request and returns its answer.

    Args:
        module: A module whose ``main`` is `melt_core.profiling.child.serve`.
        line: The request.
        output: The trace that it writes, for messages; None: one that nobody will find.
        name: The runtime, for messages.
        on_event: Called with each event.

    Raises: as `profile_in_child` does.
    """
    before = _state_of(output)

    def died(how: str) -> RuntimeFailedError:
        if output is None:
            kept = "name a file with -o to keep what is measured before that"
        elif _state_of(output) != before:
            kept = f"complete chunks of {output} stay readable"
        else:
            kept = "nothing was measured before that"
        return RuntimeFailedError(f"the {name} process ended by {how} ({kept})")

    return ask(module, line, on_event=on_event, died=died)


def _state_of(output: str | None) -> tuple[int, int, int] | None:
    """Returns what tells a trace that was begun from what was there before; None where nothing is."""
    try:
        status = Path(output or "").stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None
