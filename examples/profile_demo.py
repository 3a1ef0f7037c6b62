"""Profiles the demo model in this process and prints its answer, its key figures and its ops.

    python examples/profile_demo.py [TRACE.melt]     # with a name, the trace is kept

The model (98 MB) is fetched the first time. Needs a build with the llama.cpp runtime.
"""

import sys

import melt_core as melt
from melt_core.models import model_path

with melt.load(model_path("demo"), n_ctx=256, n_threads=2) as llm:
    prompt = llm.format_chat([("user", "Explain photosynthesis in one sentence.")])
    with melt.profile(llm, levels=("tokens", "ops")) as prof:
        answer = prof.run(prompt, max_tokens=8, repeats=3, overhead_budget_s=0.2)

print(f"{answer.text} ...\n")
print(prof.trace.summary(), "\n")
print(prof.trace.key_averages(group_by="op_type", phase="decode").head(5))

if len(sys.argv) > 1:
    prof.trace.save(sys.argv[1])
    print(f"\nkept: {sys.argv[1]}   next: melt ops {sys.argv[1]}")
