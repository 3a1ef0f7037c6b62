"""What a host that watches costs the run on a device: the same run watched and left alone, taking turns.

The device is this machine, through the agent (transport `local`), so that the watcher's own work is on the same CPUs:
more than a host at the other end of a cable costs. Each round runs the demo model with each variant, in random order,
in a process of the agent's own:

    alone      the host asks nothing until the run must be over
    control    the same again: what differs there is noise
    watched    as `melt profile --device` does it: status and clock twice a second, sensors once a second
    often      about 25 times as often, to see a cost that is otherwise below the noise

    .venv/bin/python benchmarks/bench_host_polling.py [--rounds R] [--threads N]

A phone pays with its own programs (two `dumpsys` and a `grep` a second): `telemetry.median_ms` in its traces.
The time of a repetition is the sum of its steps, as a look of the host hits few of them. What watching costs is also
derived from `often`: its loss of speed, divided by how many times as many readings it took.
Exits 1 if it is certain that decode watched reaches less than 0.99 of the speed alone: the whole interval is below.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import melt_core as melt
from common import demo_model, median_interval, verdict
from melt_core.devices import Device, GateLimits, Measurement
from melt_core.trace.format import ChunkKind
from melt_core.transports import LocalTransport

OFF = GateLimits(
    least_battery_ratio=None, may_charge=True, most_temperature_c=None, screen=None, governors=None,
    least_free_bytes=None, least_memory_bytes=0, wait_s=0.0,
)  # fmt: skip


def main() -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=8, help="repetitions in a run; the first does not count")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    request = {
        "prompt_tokens": 64, "max_tokens": 49, "ignore_eos": True, "n_ctx": 512, "n_threads": args.threads,
        "repeats": args.repeats, "warmup": 0, "levels": ["tokens"], "sensors": ["none"], "overhead_budget_s": 0.0,
    }  # fmt: skip
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="melt-") as folder:
        os.environ["MELT_STATE_DIR"] = f"{folder}/state"
        with Device(LocalTransport(Path(folder) / "work")) as device:
            began = time.monotonic()
            measured(device, Measurement(request, OFF), folder)  # warms up, and says how long a run takes
            whole_s = min(time.monotonic() - began + 1.0, 60.0)
            alone = Measurement(request, OFF, telemetry_s=0.0, poll_s=whole_s)
            variants = {
                "alone": alone,
                "control": alone,
                "watched": Measurement(request, OFF),
                "often": Measurement(request, OFF, telemetry_s=0.04, poll_s=0.02),
            }
            found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in variants}
            readings = dict.fromkeys(variants, 0)
            for number in range(args.rounds):
                print(f"round {number}/{args.rounds}", end="\r", file=sys.stderr, flush=True)
                for name in draw.sample(list(variants), len(variants)):
                    trace = measured(device, variants[name], folder)
                    found[name].append(times(trace))
                    readings[name] += trace.metadata["telemetry"]["n_readouts"]
    return report(found, readings["often"] / readings["watched"], args.threads)


def measured(device: Device, measurement: Measurement, folder: str) -> melt.Trace:
    """Returns the trace of one run."""
    return device.measure(str(demo_model()), measurement, output=f"{folder}/x.melt").trace


def times(trace: melt.Trace) -> dict[str, np.ndarray]:
    """Returns the time of each repetition's prefill and of all its decode steps, in ns; the first one left out."""
    runs, tokens = trace.records(ChunkKind.RUNS), trace.records(ChunkKind.TOKENS)
    steps = tokens[tokens["index"] > 0]
    decode = np.array([np.sum(steps["duration_ns"][steps["run"] == run]) for run in runs["run"]])
    return {"prefill": runs["prefill_ns"][1:].astype(float), "decode": decode[1:].astype(float)}


def report(found: dict[str, list[dict[str, np.ndarray]]], times_as_often: float, n_threads: int) -> int:
    """Prints the ratios and the verdict. Returns the exit code."""
    holds = True
    for phase in ("decode", "prefill"):
        median = {name: np.array([np.median(run[phase]) for run in runs]) for name, runs in found.items()}
        alone = (median["alone"] + median["control"]) / 2
        for name in ("control", "watched", "often"):
            ratios = (median["alone"] if name == "control" else alone) / median[name]
            ratio = median_interval(ratios)
            print(f"{n_threads} thread(s) {phase:<8}{name:<9}{ratio.shown()}")
            if phase == "decode" and name == "watched":
                holds = verdict("decode, watched / alone, upper end of the interval", ratio.high, at_least=0.99)
            if phase == "decode" and name == "often":
                lost = [(1 - one) / times_as_often for one in (ratio.median, ratio.high, ratio.low)]
                print(
                    f"derived from {times_as_often:.1f} times as many readings: {lost[0]:.4f} of the speed of decode "
                    f"lost to being watched [{lost[1]:.4f}, {lost[2]:.4f}]"
                )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
