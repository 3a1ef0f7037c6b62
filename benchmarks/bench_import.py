"""How long `import melt_core` takes in a fresh interpreter.

    .venv/bin/python benchmarks/bench_import.py [--rounds R]

The time is that of the import statement, measured inside. Exits 1 if the median is above 150 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import median_interval, verdict

CODE = "import time; t = time.perf_counter(); import melt_core; print(time.perf_counter() - t)"


def main() -> int:
    """Runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    times_ms = [
        1e3 * float(subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout)
        for _ in range(args.rounds)
    ]
    median = median_interval(times_ms)
    print(f"import melt_core: minimum {min(times_ms):.0f} ms, median {median.shown(0)} ms")
    return 0 if verdict("median in ms", median.median, at_most=150) else 1


if __name__ == "__main__":
    sys.exit(main())
