"""Short runs of the demo model, and what its graph consists of."""

from __future__ import annotations

from typing import Any

import melt_core as melt

PROMPT = "Explain photosynthesis in one sentence."
N_OUTPUT = 4
N_LAYERS = 30
N_GROUPS = 1 + 17 * N_LAYERS + 2 + 2  # embedding; layers; choosing the last token; norm and output: 515


def generate(llm: melt.LLM, prompt: Any = PROMPT, *, levels: Any = ("tokens",), **options: Any) -> melt.Completion:
    with melt.profile(llm, levels=levels) as profiler:
        return profiler.run(prompt, **{"max_tokens": N_OUTPUT, "warmup": 0, "overhead_budget_s": 0, **options})
