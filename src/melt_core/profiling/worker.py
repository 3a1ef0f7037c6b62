"""The child process of `profile_in_child`: executes a `ProfileRequest` and tells of its progress.

Events: ``{"event": "load", "done": 0..1}`` and ``{"event": "repetition", "done": i, "total": n}``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.models.hashes import digest_of
from melt_core.profiling.child import Send, serve
from melt_core.profiling.profiler import Profiler, profile
from melt_core.profiling.request import ProfileRequest
from melt_core.runtime.session import LLM, load


def main() -> int:
    """Executes the request on standard input. Returns the exit code."""
    return serve(lambda line, send: execute(ProfileRequest.from_json(line), send))


def execute(request: ProfileRequest, send: Send) -> dict[str, Any]:
    """Loads, profiles and unloads; the trace goes to ``request.output``."""
    with load_model(request, send) as llm:
        recording = start_profile(request, llm)
        try:
            completion = recording.run(
                **request.arguments_for(Profiler.run),
                on_repetition=lambda done, total: send("repetition", done=done, total=total),
            )
        finally:
            llm.close()  # before the trace ends, so that the unload is in it
            recording.finish()
    return {"output_text": completion.text, "prompt_token_ids": list(completion.prompt_token_ids)}


def load_model(request: ProfileRequest, send: Send) -> LLM:
    """Loads the model, reporting every twentieth of it."""
    reported = -1

    def report(done: float) -> None:
        nonlocal reported
        if int(done * 20) > reported:
            reported = int(done * 20)
            send("load", done=done)

    return load(**request.arguments_for(load), on_progress=report)


def start_profile(request: ProfileRequest, llm: LLM, **metadata: Any) -> Profiler:
    """Starts recording; call after the load: reading the file for its digest warms its cache."""
    about = {"model_file": _model_file(request), **metadata}
    return profile(llm, **request.arguments_for(profile), metadata=about)


def _model_file(request: ProfileRequest) -> dict[str, Any]:
    """Returns size and SHA-256 of the model: they tell two apart."""
    try:
        sha256, n_bytes = digest_of(Path(request.model))
        return {"sha256": sha256, "file_bytes": n_bytes}
    except (StorageError, InvalidArgumentError):
        return {"missing": {"sha256": "the model is not a readable file"}}


if __name__ == "__main__":
    sys.exit(main())
