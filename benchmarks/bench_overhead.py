"""What the hooks cost: stock llama.cpp against our build, hooks compiled in but off, and recording ops.

Both are loaded into one process as shared objects; every prefill and every decode step is run by each of them, one
after the other in random order, and compared with the stock one of the same round. A second copy of the stock object
is the A/A control: what differs there is noise. Where memory lands makes one of two equal objects faster by some
percent for as long as a process lives: so there are many processes, each gives one ratio, and the figure is their
median. Most of that memory are the weights that llama.cpp copies into another layout, for each object anew. With
--mapped-weights it does not, and all read the one mapped file: a steadier figure, of slower products, for a machine
where the other is UNSURE. Hooks off and on share a session, so that their ratio, recording alone, has no such noise.

    .venv/bin/python benchmarks/bench_overhead.py [--processes P] [--rounds R] [--threads 1,2] [--mapped-weights]

Exits 1 if recording ops reaches less than 0.995 of the stock speed, or hooks that are off less than 0.998.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys

import numpy as np

from common import build, demo_model, median_interval, speed_verdict, verdict

VARIANTS = ("stock", "stock copy", "hooks off", "ops recorded")


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5, help="per process: a prefill and 16 decode steps each")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--mapped-weights", action="store_true", help="no copies of the weights in another layout")
    args = parser.parse_args()

    stock = build("stock_engine", stock=True) / "libstock_engine.so"
    copy = stock.with_name("libstock_engine_copy.so")
    shutil.copyfile(stock, copy)  # another file, so that it is loaded a second time
    folder = build("melt_engine") / "benchmarks"
    build("bench_overhead")
    ours = folder / "libmelt_engine.so"
    libraries = (f"stock={stock}", f"stock copy={copy}", f"hooks off={ours}", f"ops recorded={ours}:on")

    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        runs = []
        for seed in range(args.processes):
            shown = f"{n_threads} threads: process {seed + 1}/{args.processes}"
            print(shown, end="\r", file=sys.stderr, flush=True)
            repack = int(not args.mapped_weights)
            command = [folder / "bench_overhead", demo_model(), n_threads, args.rounds, args.prompt, seed, repack]
            done = subprocess.run([*map(str, command), *libraries], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
        holds &= report(n_threads, runs)
    return 0 if holds else 1


def report(n_threads: int, runs: list[dict[str, dict[str, list[int]]]]) -> bool:
    """Prints one table and returns whether all bounds hold."""
    print(f"\n{n_threads} thread(s): speed relative to stock llama.cpp in the same process (1 = as fast)")
    spread_titles = f"{'median':>7} {'95 % interval':>17} {'least':>7} {'most':>7}"
    print(f"{'':<13} {'phase':<8} {spread_titles} {'of minima':>10} {'ms':>7}")
    figures = {}
    for phase in ("decode", "prefill"):
        for name in VARIANTS:
            key = f"{phase}_ns"
            ratios = [float(np.median(np.divide(run["stock"][key], run[name][key]))) for run in runs]
            minima = float(np.median([min(run["stock"][key]) / min(run[name][key]) for run in runs]))
            ms = np.median(np.concatenate([run[name][key] for run in runs])) / 1e6
            figures[phase, name] = found = median_interval(ratios)
            spread = f"{min(ratios):>7.4f} {max(ratios):>7.4f} {minima:>10.4f}"
            print(f"{name:<13} {phase:<8}  {found.shown()} {spread} {ms:>7.2f}")
        alone = [np.median(np.divide(run["hooks off"][key], run["ops recorded"][key])) for run in runs]
        print(f"{'recorded / off':<13} {phase:<8} {median_interval(alone).shown()}")
    recorded = sum(run["ops recorded"]["records"] for run in runs)  # type: ignore[misc]
    dropped = sum(run["ops recorded"]["dropped"] for run in runs)  # type: ignore[misc]
    print(f"{recorded} op records, {dropped} dropped, {len(runs)} processes")
    holds = verdict(f"{n_threads} thread(s), dropped", dropped, at_most=0)
    for phase in ("decode", "prefill"):
        for name, bound in (("ops recorded", 0.995), ("hooks off", 0.998)):
            title, control = f"{n_threads} thread(s), {phase}, {name}", figures[phase, "stock copy"]
            holds &= speed_verdict(title, figures[phase, name], at_least=bound, control=control)
    return holds


if __name__ == "__main__":
    sys.exit(main())
