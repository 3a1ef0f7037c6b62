"""What the hooks cost on MLC: the virtual machine as it is against our hooks, off and recording ops.

Copies of one library hold a session each, all in one process; every prefill and every decode step is run by each of
them, one after the other in random order, and compared with the stock one of the same round. "stock copy" is the A/A
control: what differs there is noise. "hooks off" and "ops recorded" share a session: between those two only the
recording differs. "set_instrument" is the machine's own hook with an empty callback, switched on for its steps: our
hooks stand elsewhere because of what it costs. Each of many processes gives one ratio; the figure is their median.

    .venv/bin/python benchmarks/bench_mlc_overhead.py [DIR] [--processes P] [--rounds R] [--threads 1,2]

DIR is a model directory for the MLC runtime; by default the demo, converted to q4f32_1. Exits 1 if
recording ops reaches less than 0.99 of the speed of the stock machine, or of the same session with recording off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from common import build, mlc_model, speed_verdict, verdict
from engines import A_ROUND, PHASES, report, run_engines

VARIANTS = ("stock", "stock copy", "set_instrument", "hooks off", "ops recorded")


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="a model directory")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4, help=f"per process: {A_ROUND}")
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

    environment = {} if os.environ.get("MELT_TVM_PATH") else {"MELT_TVM_PATH": tvm_folders()}
    holds = True
    for n_threads in (int(n) for n in args.threads.split(",")):
        runs = run_engines(
            folder / "bench_overhead",
            model,
            n_threads,
            libraries,
            processes=args.processes,
            rounds=args.rounds,
            prompt=args.prompt,
            environment=environment,
        )
        figures, complete = report(runs, n_threads, "speed relative to the stock machine in the same process")
        holds &= complete
        for phase in PHASES:
            title, recorded = f"{n_threads} thread(s), {phase}, recording against", figures[phase, "ops recorded"]
            control = figures[phase, "stock copy"]
            holds &= speed_verdict(f"{title} the stock machine", recorded, at_least=0.99, control=control)
            alone = figures[phase, "recording alone"].median
            holds &= verdict(f"{title} the same session, off", alone, at_least=0.99)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
