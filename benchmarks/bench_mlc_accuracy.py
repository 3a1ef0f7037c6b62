"""Whether the MLC runtime computes what NumPy does: greedy tokens and logits of a q0f32 model directory.

    .venv/bin/python benchmarks/bench_mlc_accuracy.py [DIR] [--tokens N] [--threads T]

Exits 1 unless all tokens are equal and the ten highest logits of each step within 1e-3 of the largest magnitude.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from common import mlc_model, verdict

PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2]


def main() -> int:
    """Runs both and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="a model directory in q0f32 (default: the demo, converted)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = args.model or mlc_model("q0f32")
    import melt_core as melt
    from melt_core.models.mlc.verify import reference_of

    options = {"ignore_eos": True, "warmup": 0, "overhead_budget_s": 0, "keep_logits": True}
    with (
        melt.load(model, runtime="mlc", n_threads=args.threads, n_ctx=512) as llm,
        melt.profile(llm, levels=("tokens",)) as prof,
    ):
        done = prof.run(PROMPT, max_tokens=args.tokens, **options)
    kept = prof.trace.metadata["logits"]
    tokens, logits = reference_of(model).greedy(PROMPT, args.tokens)
    n_same = sum(a == b for a, b in zip(done.token_ids, tokens, strict=True))
    errors = [
        float(np.abs(np.array(values) - expected[ids]).max() / np.abs(expected).max())
        for ids, values, expected in zip(kept["top_ids"], kept["top_logits"], logits, strict=True)
    ]
    print(f"{n_same} of {args.tokens} tokens equal")
    print(f"logits at most {max(errors):.2e} apart, median {np.median(errors):.2e}")
    holds = verdict("tokens equal", n_same / args.tokens, at_least=1.0)
    return 0 if verdict("logits apart, relative", max(errors), at_most=1e-3) and holds else 1


if __name__ == "__main__":
    sys.exit(main())
