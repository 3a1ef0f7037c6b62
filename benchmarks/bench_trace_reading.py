"""What reading a trace costs: 10 million op records (400 MB) opened, checked and grouped by op type.

Goal: 1.0 s and 1 GB of peak resident memory, the mapped file included. Method: the trace is written to a temporary
folder (so that it is in the page cache), each round is a fresh process, and its clock runs from before `Trace.open`
until the grouped table is there; starting Python and importing NumPy are shown apart. Exits 1 if the median is over.

    python benchmarks/bench_trace_reading.py --rounds 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOAL_S = 1.0
GOAL_BYTES = 1_000_000_000

ROUND = """
import json, resource, sys, time, types
package = types.ModuleType("melt_core")  # only the trace and its analysis: no compiled core is needed
package.__path__ = ["melt_core"]
sys.modules["melt_core"] = package
begin = time.perf_counter()
from melt_core.trace import Trace
imported = time.perf_counter()
trace = Trace.open(sys.argv[1])
opened = time.perf_counter()
table = trace.key_averages("op_type")
grouped = time.perf_counter()
print(json.dumps({
    "import_s": imported - begin, "open_s": opened - imported, "group_s": grouped - opened,
    "total_s": grouped - imported, "count": int(table["count"].sum()),
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def main() -> int:
    """Runs the benchmark; returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    from fakes.trace_builder import large_trace

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.melt"
        with path.open("wb") as file:
            large_trace(file, args.records)
        print(f"{args.records} op records, {path.stat().st_size / 1e6:.0f} MB, {args.rounds} rounds")
        rounds = [_round(path) for _ in range(args.rounds)]
        expected = args.records * 0.45  # the main thread's half, less the warm-up's tenth
        if not all(abs(row["count"] - expected) <= 1200 for row in rounds):
            print(f"wrong answer: {rounds[0]['count']} groups instead of about {expected:.0f}")
            return 1
    for name in ("import_s", "open_s", "group_s", "total_s"):
        values = [row[name] for row in rounds]
        print(f"{name:10} min {min(values):.3f}  median {statistics.median(values):.3f}  max {max(values):.3f}")
    peak = max(row["peak_rss_bytes"] for row in rounds)
    print(f"peak RSS   {peak / 1e6:.0f} MB, the mapped file included")
    missed = statistics.median(row["total_s"] for row in rounds) > GOAL_S or peak > GOAL_BYTES
    print("goal missed" if missed else f"within the goal of {GOAL_S} s and {GOAL_BYTES / 1e6:.0f} MB")
    return int(missed)


def _round(path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", ROUND, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=ROOT / "src")
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    sys.exit(main())
