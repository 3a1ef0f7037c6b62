"""What the hooks cost: stock llama.cpp against our build, hooks compiled in but off, and recording ops.

Both are loaded into one process as shared objects; every prefill and every decode step is run by each of them, one
after the other in random order, and compared with the stock ones of the same step. The stock object is there twice:
how its copy differs from it, the A/A control, is noise. Each session takes as many steps, so that contexts are as long.

Where memory lies makes one of two equal objects up to 13 % faster for as long as a process lives. So all have their
weights, caches and scratch in the same memory (native/same_memory.h), and where their code lies is drawn anew for each
process. There are many: each gives one ratio, and the figure is their median. Hooks off and on share a session, so
that their ratio, recording alone, has least noise.

    .venv/bin/python benchmarks/bench_overhead.py [--processes P] [--rounds R] [--threads 1,2]

Exits 1 if recording ops reaches less than 0.995 of the stock speed, or hooks that are off less than 0.998. Whether
hooks that are off cost anything is told apart from noise by bench_instructions.py.
"""

from __future__ import annotations

import argparse
import sys

from common import demo_model, speed_verdict
from engines import A_ROUND, PHASES, build_llama_cpp_engines, report, run_engines


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=24, help="for each thread: steps that are briefer vary more")
    parser.add_argument("--rounds", type=int, default=8, help=f"per process: {A_ROUND}")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()

    program, libraries = build_llama_cpp_engines()

    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        runs = run_engines(
            program,
            demo_model(),
            n_threads,
            libraries,
            processes=args.processes * n_threads,
            rounds=args.rounds,
            prompt=args.prompt,
        )
        figures, complete = report(runs, n_threads, "speed relative to stock llama.cpp in the same process")
        holds &= complete
        for phase in PHASES:
            for name, bound in (("ops recorded", 0.995), ("hooks off", 0.998)):
                title, control = f"{n_threads} thread(s), {phase}, {name}", figures[phase, "stock copy"]
                holds &= speed_verdict(title, figures[phase, name], at_least=bound, control=control)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
