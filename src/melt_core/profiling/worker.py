"""The child process of `profile_in_child`: a request on standard input, events as JSON lines on standard output.

Events: ``{"event": "load", "done": 0..1}``, ``{"event": "repetition", "done": i, "total": n}``, and at the end one of
``{"event": "done", ...}`` and ``{"event": "error", "kind": class name, "message": text}``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from melt_core.errors import InvalidArgumentError, MeltError, StorageError
from melt_core.models.hashes import digest_of
from melt_core.profiling.profiler import profile
from melt_core.profiling.request import ProfileRequest
from melt_core.runtime.checks import MAX_NUMBER, checked_number, checked_text
from melt_core.runtime.session import LLM, load


def main() -> int:
    """Executes the request on standard input. Returns the exit code."""
    return serve(lambda line, send: execute(ProfileRequest.from_json(line), send))


def serve(execute_line: Callable[[str, Any], dict[str, Any]]) -> int:
    """Executes the line on standard input and tells of it on standard output. Returns the exit code."""
    # Whatever a runtime prints must not get between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=events, flush=True)

    line = sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        send("done", **execute_line(line, send))
        return 0
    except KeyboardInterrupt:
        send("error", kind="CancelledError", message="cancelled; what was measured before is in the trace")
    except MeltError as error:
        send("error", kind=type(error).__name__, message=str(error))
    except MemoryError:
        send("error", kind="OutOfMemoryError", message="out of memory")
    return 1


def _end_with_parent() -> None:
    """Waits for the parent's end of standard input to close, which its death does too, and ends the run."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def execute(request: ProfileRequest, send: Any) -> dict[str, Any]:
    """Loads, profiles and unloads; the trace goes to ``request.output``."""
    with load_model(request, send) as llm:
        metadata = {"model_file": model_file_metadata(request)}  # after the load: reading the file warms its cache
        prompt = prompt_of(request, llm)
        recording = profile(
            llm,
            levels=request.levels,
            output=request.output,
            metadata=metadata,
            log_bytes=request.log_bytes,
            sensors=request.sensors,
            sensor_hz=request.sensor_hz,
        )
        try:
            if request.marker:
                recording.mark()
            if request.idle_s:
                recording.sample_idle(request.idle_s)
            completion = recording.run(
                prompt,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                seed=request.seed,
                ignore_eos=request.ignore_eos or request.prompt_tokens is not None,
                forced_ids=request.forced_ids,
                keep_logits=request.keep_logits,
                repeats=request.repeats,
                warmup=request.warmup,
                overhead_budget_s=request.overhead_budget_s,
                on_repetition=lambda done, total: send("repetition", done=done, total=total),
            )
            if request.idle_s:
                recording.sample_idle(request.idle_s)
            if request.marker:
                recording.mark()
        finally:
            llm.close()  # before the trace ends, so that the unload is in it
            recording.finish()
    return {
        "output_text": completion.text,
        "prompt_token_ids": list(completion.prompt_token_ids),
    }


def load_model(request: ProfileRequest, send: Any) -> LLM:
    """Loads the model, reporting every twentieth of it."""
    reported = -1

    def report(done: float) -> None:
        nonlocal reported
        if int(done * 20) > reported:
            reported = int(done * 20)
            send("load", done=done)

    return load(
        request.model,
        runtime=request.runtime,
        n_ctx=request.n_ctx,
        n_batch=request.n_batch,
        n_ubatch=request.n_ubatch,
        n_threads=request.n_threads,
        use_mmap=request.use_mmap,
        check_tensors=request.check_tensors,
        repack=request.repack,
        kv_type=request.kv_type,
        model_lib=request.model_lib,
        runtime_path=request.runtime_path,
        on_progress=report,
    )


def prompt_of(request: ProfileRequest, llm: LLM) -> str | list[int]:
    """Returns the prompt as text or token ids.

    Raises:
        InvalidArgumentError: The number of prompt tokens is out of range.
    """
    if request.prompt_ids is not None:
        return list(request.prompt_ids)
    if request.prompt_tokens is not None:
        checked_number("prompt_tokens", request.prompt_tokens, low=-MAX_NUMBER)  # its range is that of the context
        if not 1 <= request.prompt_tokens < llm.info.n_ctx:
            raise InvalidArgumentError(
                f"a prompt of {request.prompt_tokens} tokens: this context takes 1 to {llm.info.n_ctx - 1} "
                "(--ctx sets its length)"
            )
        draw = random.Random(request.seed)
        return [draw.randrange(llm.info.n_vocab) for _ in range(request.prompt_tokens)]
    prompt = checked_text(request.prompt or "", "the prompt")
    return llm.format_chat([("user", prompt)]) if request.chat else prompt


def model_file_metadata(request: ProfileRequest) -> dict[str, Any]:
    """Returns size and SHA-256 of the model: they tell two apart."""
    try:
        sha256, n_bytes = digest_of(Path(request.model))
        return {"sha256": sha256, "file_bytes": n_bytes}
    except (StorageError, InvalidArgumentError):
        return {"missing": {"sha256": "the model is not a readable file"}}


if __name__ == "__main__":
    sys.exit(main())
