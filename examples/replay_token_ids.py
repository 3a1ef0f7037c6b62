"""Reads the prompt's token ids back from a trace and evaluates the same ids again.

Ids, not text, are what two runs must share to be compared: another build may tokenise a text differently.
"""

import melt_core as melt
from melt_core.models import model_path

PROMPT = "The three primary colours are"

with melt.load(model_path("demo"), n_ctx=128, n_threads=2) as llm:
    with melt.profile(llm, levels=("tokens",)) as first:
        said = first.run(PROMPT, max_tokens=6, warmup=0)

    prompts = first.trace.prompts
    ids = prompts["token_id"][prompts["run"] == 0].tolist()
    with melt.profile(llm, levels=("tokens",)) as second:
        again = second.run(ids, max_tokens=6, warmup=0)

print(f"prompt ids: {ids}")
print(f"text:   {said.text!r}")
print(f"replay: {again.text!r}")
assert tuple(ids) == said.prompt_token_ids == again.prompt_token_ids
assert said.token_ids == again.token_ids  # greedy, same thread count, same build
phases = [row.phase for row in second.trace.phases if row.run == 0]
print(f"phases of the replayed run: {', '.join(phases)}")  # nothing to tokenise
