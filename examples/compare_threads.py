"""Runs the same token ids with one thread and with two, alternately, and compares decode rate and waiting.

Two loads of one model take turns, so that a change in the machine's state meets both; the ratio is taken pair by pair.
"""

import statistics

import melt_core as melt
from melt_core.models import model_path

PAIRS = 3
MODEL = model_path("demo")

rates: dict[int, list[float]] = {1: [], 2: []}
waits: dict[int, list[float]] = {1: [], 2: []}
with melt.load(MODEL, n_ctx=128, n_threads=1) as one, melt.load(MODEL, n_ctx=128, n_threads=2) as two:
    ids = one.encode("The leaves of a plant are green because")
    for number in range(PAIRS):
        pair = [(1, one), (2, two)]
        for n_threads, llm in pair if number % 2 == 0 else reversed(pair):
            with melt.profile(llm) as prof:
                prof.run(ids, max_tokens=8, ignore_eos=True, overhead_budget_s=0)
            rates[n_threads].append(prof.trace.summary().decode_tok_s.median)
            [decode] = prof.trace.key_averages(group_by="phase", phase="decode")
            waits[n_threads].append(decode.wait_ns / (decode.compute_ns + decode.wait_ns))

for n, values in rates.items():
    each = ", ".join(f"{value:.1f}" for value in values)
    waiting = statistics.median(waits[n])
    print(f"threads={n}: decode {statistics.median(values):.1f} tok/s ({each}); waiting {waiting:.0%} of thread time")
ratios = [b / a for a, b in zip(rates[1], rates[2], strict=True)]
print(f"2 threads / 1 thread, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
