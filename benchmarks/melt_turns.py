"""What bench_llama_bench.py has of melt: a run, a line of JSON with its speeds, a stop until SIGCONT, and so on.

melt_turns.py N_THREADS N_PROMPT N_OUTPUT N_WARMUP
"""

from __future__ import annotations

import json
import signal
import sys

import melt_core as melt
from common import demo_model

n_threads, n_prompt, n_output, n_warmup = (int(argument) for argument in sys.argv[1:])
# As much context as llama-bench's tests have at most.
with melt.load(demo_model(), n_threads=n_threads, n_ctx=n_prompt + n_output) as llm:
    while True:
        with melt.profile(llm) as prof:  # with ops recorded, as users have it by default
            prof.run(prompt_tokens=n_prompt, max_tokens=n_output, ignore_eos=True, warmup=n_warmup, overhead_budget_s=0)
        figures = prof.trace.summary().to_json()
        print(json.dumps({phase: figures[f"{phase}_tok_s"] for phase in ("prefill", "decode")}), flush=True)
        signal.raise_signal(signal.SIGSTOP)  # of this thread, which then does not go on, not of the process
