"""What the hooks add, counted and not timed: instructions of a prefill and of decode steps, under valgrind's callgrind.

Time cannot tell 0.1 % here: where memory lands makes one of two equal libraries faster than the other by more than the
hooks cost. The same work takes the same instructions each time, whatever else the machine does. callgrind knows AVX2
and nothing newer, so stock llama.cpp and our build are compiled for that, with weights as they lie in the file.

With two threads, the functions in which one waits for the other are left out: how long it spins is no property of the
code. What stands in the node loop is counted in both threads.

    .venv/bin/python benchmarks/bench_instructions.py [--threads 1,2] [--prompt N] [--decode N]

Needs valgrind. Exits 1 if the stock library's instructions are less than 0.998 of those of ours with hooks off, or less
than 0.995 with ops recorded. (Reading the counter is one instruction and takes as long as a hundred: what recording
costs in time is for bench_overhead.py.)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from callgrind import callgrind, instructions
from common import build, demo_model, verdict

PHASES = {"prefill": "counted_prefill", "decode": "counted_decode"}
#: Where a thread waits for others; by the names in the symbol tables.
WAITING = ("ggml_barrier", "ggml_graph_compute_secondary_thread", "ggml_thread_cpu_relax")


def count(program: Path, library: str, n_threads: int, n_prompt: int, n_decode: int) -> dict[str, Counter[str]]:
    """Returns the instructions of each phase by function, over all threads; raises if a record was dropped."""
    options = ["--fair-sched=yes", f"--dump-before={PHASES['prefill']}"]
    options += [f"--dump-after={name}" for name in PHASES.values()]
    command = [program, demo_model(), *map(str, (n_threads, n_prompt, n_decode)), library]
    printed, dumps = callgrind(command, *options)
    recorded = json.loads(printed)
    if recorded["dropped"] or bool(recorded["records"]) != library.endswith(":on"):
        raise SystemExit(f"{library}: {recorded}")
    found = {phase: [text for text in dumps if f"--dump-after={name}" in text] for phase, name in PHASES.items()}
    return {phase: instructions(text) for phase, (text,) in found.items()}


def show(n_threads: int, phase: str, counts: dict[str, dict[str, Counter[str]]]) -> bool:
    """Prints a phase of all variants; returns whether the bounds hold."""
    work = {
        name: Counter({function: n for function, n in phases[phase].items() if function not in WAITING})
        for name, phases in counts.items()
    }
    stock = work["stock"]
    print(f"\n{n_threads} thread(s), {phase}: stock {stock.total() / 1e6:.3f} M instructions")
    holds = True
    for name, bound in (("hooks off", 0.998), ("ops recorded", 0.995)):
        added = Counter(work[name])
        added.subtract(stock)
        ratio = stock.total() / work[name].total()
        print(f"  {name}: {added.total():+,} instructions, a ratio of {ratio:.5f}; most of them in")
        for function, n in sorted(added.items(), key=lambda item: -abs(item[1]))[:5]:
            print(f"    {n:>+10,}  {function[:60]}")
        holds &= verdict(f"{n_threads} thread(s), {phase}, {name}, by instructions", ratio, at_least=bound)
    return holds


def main() -> int:
    """Builds, counts and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=8, help="steps of the decode")
    args = parser.parse_args()
    stock = build("stock_engine", stock=True, portable=True) / "libstock_engine.so"
    folder = build("melt_engine", portable=True) / "benchmarks"
    build("count_steps", portable=True)
    ours = folder / "libmelt_engine.so"
    variants = {"stock": str(stock), "hooks off": str(ours), "ops recorded": f"{ours}:on"}
    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        counts = {}
        for name, library in variants.items():
            print(f"{n_threads} thread(s): counting {name} ...", file=sys.stderr, flush=True)
            counts[name] = count(folder / "count_steps", library, n_threads, args.prompt, args.decode)
        for phase in PHASES:
            holds &= show(n_threads, phase, counts)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
