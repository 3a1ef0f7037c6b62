"""The child process of `predict_memory` and `find_frontier`: answers one question about one model file.

Both questions are answered here, so that the process whose size is predicted is the one that is then tried.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from melt_core.profiling.child import serve
from melt_core.profiling.profiler import profile
from melt_core.runtime.memory import forecast_here
from melt_core.runtime.session import load


def main() -> int:
    """Answers the request on standard input. Returns the exit code."""
    return serve(lambda line, _: answer(json.loads(line)))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Returns what the action that is asked for gives."""
    return ACTIONS[request["action"]](request)


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Returns a `MemoryForecast` as a dict."""
    return asdict(forecast_here(request["model"], **request["options"]))


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the model under a memory limit and runs it: a prefill of `n_prefill` tokens and two tokens of decode.

    llama.cpp clears the KV cache when it makes it, so all of its pages are touched; the prefill touches the compute
    buffer. The limit is on what is reserved: RLIMIT_DATA, lowered by the mapped part of the model file.
    """
    limit = request["limit_bytes"]
    _be_the_first_to_go()
    _limit(limit)

    def lower_by_mapping(done: float) -> None:
        if done >= 1.0:  # the weights are in place, the context is not yet made
            _limit(limit - mapped_bytes(request["model"]))

    with load(request["model"], n_threads=1, on_progress=lower_by_mapping, **request["options"]) as llm:
        recording = profile(llm, levels=("tokens",), output=request["trace"], log_bytes=1 << 12, sensors="none")
        prompt = [1 + i % (llm.info.n_vocab - 1) for i in range(request["n_prefill"])]
        recording.run(prompt, max_tokens=2, ignore_eos=True, repeats=1, warmup=0, overhead_budget_s=0.0)
        recording.finish()
        return {"parts": [asdict(part) for part in llm.info.memory], "n_ctx": llm.info.n_ctx}


ACTIONS = {"predict": predict, "attempt": attempt}


def mapped_bytes(model: str) -> int:
    """Returns how much of a file this process has mapped."""
    total, real = 0, os.path.realpath(model)
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == real:
            start, end = fields[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def _limit(limit_bytes: int) -> None:
    bounded = max(limit_bytes, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (bounded, bounded))


def _be_the_first_to_go() -> None:
    """If memory runs out all the same, the kernel shall take this process and no other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
