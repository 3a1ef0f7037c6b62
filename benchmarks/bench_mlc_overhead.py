"""What the hooks cost on MLC: the virtual machine as it is against our hooks, off and recording ops.

Copies of one library hold a session each, all in one process; every prefill and every decode step is run by each of
them, one after the other in random order, and compared with the stock one of the same round. "stock copy" is the A/A
control: what differs there is noise, and where memory lies makes up to some percent of it. "hooks off" and "ops
recorded" share a session: between those two only the recording differs. "set_instrument" is the machine's own hook with
an empty callback, switched on for its steps: our hooks stand elsewhere because of what it costs. Each of many processes
gives one ratio; the figure is their median.

    .venv/bin/python benchmarks/bench_mlc_overhead.py [DIR] [--processes P] [--rounds R] [--threads 1,2]

DIR is a model directory for the MLC runtime; by default the demo, converted to q4f32_1. Exits 1 if
recording ops reaches less than 0.99 of the speed of the stock machine, or of the same session with recording off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

import numpy as np

from common import build, median_interval, mlc_model, verdict

VARIANTS = ("stock", "stock copy", "set_instrument", "hooks off", "ops recorded")


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="a model directory")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4, help="per process: a prefill and 16 decode steps each")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prefill")
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    model = args.model or str(mlc_model("q4f32_1"))
    folder = build("mlc_engine") / "benchmarks"
    build("bench_overhead")
    libraries = []
    for variant in VARIANTS:
        name = "hooks" if variant in ("hooks off", "ops recorded") else variant.replace(" ", "_").replace("set_", "")
        copy = folder / f"libmlc_engine_{name}.so"  # another file, so that it is loaded once more
        shutil.copyfile(folder / "libmlc_engine.so", copy)
        libraries.append(f"{variant}={copy}" + (":on" if variant in ("ops recorded", "set_instrument") else ""))

    from melt_core.runtime.mlc import tvm_folders

    environment = {**os.environ, "MELT_TVM_PATH": os.environ.get("MELT_TVM_PATH") or tvm_folders()}
    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        runs = []
        for seed in range(args.processes):
            shown = f"{n_threads} threads: process {seed + 1}/{args.processes}"
            print(shown, end="\r", file=sys.stderr, flush=True)
            command = [folder / "bench_overhead", model, n_threads, args.rounds, args.prompt, seed, 1]
            done = subprocess.run(
                [*map(str, command), *libraries], check=True, capture_output=True, text=True, env=environment
            )
            runs.append(json.loads(done.stdout))
        holds &= report(n_threads, runs)
    return 0 if holds else 1


def report(n_threads: int, runs: list[dict[str, dict[str, list[int]]]]) -> bool:
    """Prints one table and returns whether all bounds hold."""
    print(f"\n{n_threads} thread(s): speed relative to the stock machine in the same process (1 = as fast)")
    print(f"{'':<15} {'phase':<8} {'median':>7} {'95 % interval':>17} {'least':>7} {'most':>7} {'ms':>8}")
    figures = {}
    for phase in ("decode", "prefill"):
        for name in VARIANTS:
            key = f"{phase}_ns"
            ratios = [float(np.median(np.divide(run["stock"][key], run[name][key]))) for run in runs]
            ms = np.median(np.concatenate([run[name][key] for run in runs])) / 1e6
            figures[phase, name], low, high = median_interval(ratios)
            spread = f"[{low:.4f}, {high:.4f}] {min(ratios):>7.4f} {max(ratios):>7.4f}"
            print(f"{name:<15} {phase:<8} {figures[phase, name]:>7.4f} {spread} {ms:>8.2f}")
    recorded = sum(run["ops recorded"]["records"] for run in runs)  # type: ignore[misc]
    dropped = sum(run["ops recorded"]["dropped"] for run in runs)  # type: ignore[misc]
    print(f"{recorded} op records, {dropped} dropped, {len(runs)} processes")
    holds = verdict(f"{n_threads} thread(s), dropped", dropped, at_most=0)
    for phase in ("decode", "prefill"):
        key = f"{phase}_ns"
        same = [float(np.median(np.divide(run["hooks off"][key], run["ops recorded"][key]))) for run in runs]
        paired, low, high = median_interval(same)
        print(f"{phase}: recording against not recording in the same session {paired:.4f} [{low:.4f}, {high:.4f}]")
        title = f"{n_threads} thread(s), {phase}, recording against"
        holds &= verdict(f"{title} the stock machine", figures[phase, "ops recorded"], at_least=0.99)
        holds &= verdict(f"{title} the same session, off", paired, at_least=0.99)
    return holds


if __name__ == "__main__":
    sys.exit(main())
