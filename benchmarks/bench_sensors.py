"""What reading sensors costs: the same runs of the demo model with and without it, taking turns in one process.

Ten sources are read at 100 Hz and four more at lower rates, from a sysfs tree whose files a second process drives: two
RAPL domains, the rails of an INA3221, six INA238, four groups of CPUs; and a GPU's load, battery, thermal zones and
cooling at the rate that they may be read. Each round is a short run (a prefill, 16 decode steps) with sensors and two
without, in random order within half a second: the mean of the two without over the one with is one ratio. The two
without against each other are the control: what differs there is noise. Many short rounds, as a virtual machine's speed
moves by some percent within seconds.

    .venv/bin/python benchmarks/bench_sensors.py [--rounds R] [--threads N]     Takes about 7 minutes.

Reading a file of a real sysfs costs more than one of a file system in memory: a driver may talk to its chip. That
share is the machine's own, and its traces state it (`sensors.sampler.cpu_ratio`).

Exits 1 if decode with sensors reaches less than 0.995 of the speed without, that ratio is not known to 0.5 %, or the
sensors' thread takes 1 % of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import melt_core as melt
from common import ROOT, demo_model, speed_verdict, verdict
from levels import ratio_to_without

VARIANTS = {"without": "none", "control": "none", "sensors": "auto"}
MIN_SOURCES = 10


def main() -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--prompt", type=int, default=8, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=16, help="decode steps of each run")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    draw = random.Random(0)
    prompt = [draw.randrange(1, 40_000) for _ in range(args.prompt)]
    with driven_tree(), melt.load(demo_model(), n_ctx=512, n_threads=args.threads) as llm:
        recorders = {
            name: melt.profile(llm, levels=("tokens",), sensors=sensors, sensor_hz=100.0)
            for name, sensors in VARIANTS.items()
        }
        for number in range(args.rounds + 1):  # the first warms up
            print(f"round {number}/{args.rounds}", end="\r", file=sys.stderr, flush=True)
            for name in draw.sample(list(recorders), len(recorders)):
                recorders[name].run(prompt, max_tokens=args.decode + 1, ignore_eos=True, warmup=0, overhead_budget_s=0)
        for recorder in recorders.values():
            with recorder:
                pass
    return report({name: recorder.trace for name, recorder in recorders.items()}, args.threads)


@contextlib.contextmanager
def driven_tree() -> Iterator[None]:
    """Makes the tree, points the core at it and has another process drive it meanwhile."""
    with tempfile.TemporaryDirectory(prefix="melt-sys-") as folder:
        driver = ROOT / "tests/fakes/sysfs_tree.py"
        writer = subprocess.Popen([sys.executable, driver, folder, "3600", "100"], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            writer.stdout.readline()  # the tree is there
            add_more(Path(folder))
            os.environ["MELT_SYSFS_ROOT"] = folder
            yield
        finally:
            writer.kill()
            writer.wait()


def add_more(root: Path) -> None:
    """Adds sensors of a larger machine, which stand still: reading them costs the same."""
    files = {
        "class/powercap/intel-rapl:0:0/name": "dram",
        "class/powercap/intel-rapl:0:0/energy_uj": "1000000",
        "class/powercap/intel-rapl:0:0/max_energy_range_uj": "65712999613",
        "devices/platform/17000000.gpu/load": "512",
    }
    for chip in (3, 4, 5, 6, 7):
        files |= {f"class/hwmon/hwmon{chip}/name": f"ina238-{chip}", f"class/hwmon/hwmon{chip}/power1_input": "2500000"}
    for cpu in (4, 7, 8):
        files[f"devices/system/cpu/cpufreq/policy{cpu}/scaling_cur_freq"] = "1800000"
    for zone in range(1, 10):
        files |= {
            f"class/thermal/thermal_zone{zone}/type": f"zone{zone}",
            f"class/thermal/thermal_zone{zone}/temp": "41500",
        }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def report(traces: dict[str, melt.Trace], n_threads: int) -> int:
    """Prints the ratios and verdicts. Returns the exit code."""
    for phase in ("prefill", "decode"):
        ratio, control = ratio_to_without(traces, "sensors", phase, n_threads)
    sensors = traces["sensors"].metadata["sensors"]
    sampler, sources = sensors["sampler"], sensors["sources"]
    fast = [source for source in sources if source["rate_hz"] >= 100]
    n_channels = sum(len(source["channels"]) for source in sources)
    print(
        f"{len(sources)} sources ({len(fast)} at 100 Hz), {n_channels} channels, {sampler['n_rows']} readings, "
        f"late by {sampler['jitter_p95_ns'] / 1e3:.0f} us (p95, worst run), {sampler['n_late']} deadlines missed"
    )
    return (
        0
        if all(
            [
                speed_verdict("decode, sensors / without", ratio, at_least=0.995, control=control),
                verdict("half of its 95 % interval", (ratio.high - ratio.low) / 2, at_most=0.005),
                verdict("sampling thread, share of a core", sampler["cpu_ratio"], at_most=0.01),
                verdict("sources read", len(sources), at_least=MIN_SOURCES),
                verdict("samples dropped", sampler["n_dropped"], at_most=0),
            ]
        )
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
