"""Whether the ceilings are right: against likwid-bench, and against a STREAM-like program that shares no code.

Debian's mbw measures copies and sysbench reads through a scalar loop, so neither measures what a read ceiling is.
likwid-bench (package likwid) does: its kernels load_* and peakflops_sp_* are hand-written assembler. It reads address
after address from pages of 4 KiB, so it is compared with our figures of such reads ("ours, plain"). The STREAM-like
program (benchmarks/native/stream_read.c, compiled apart with the system's cc and POSIX threads) asks for huge pages,
and the compiler orders its reads, so it is compared with what we report.

    .venv/bin/python benchmarks/bench_ceilings.py [--rounds R] [--threads 1,2]

In each round all of them run one after the other in random order on the same CPUs and sizes, the STREAM-like program
twice: the second is the A/A control. A figure is the median over rounds of ours / theirs, both medians of their own
passes (likwid-bench: its mean). Exits 1 if a read bandwidth from memory is not within 10 % of the STREAM-like program
and of likwid-bench, or an arithmetic rate not within 10 % of likwid-bench. Without likwid-bench that half is left out,
and said so.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common import ROOT, median_interval, verdict
from melt_core.analysis.ceilings import FLOPS, READ_BANDWIDTH
from melt_core.profiling.ceilings import measure_ceilings

#: Our family -> likwid-bench's kernel.
PEAKS = {"f32_avx512": "peakflops_sp_avx512_fma", "f32_avx2": "peakflops_sp_avx_fma"}
LOADS = {"64-byte": "load_avx512", "32-byte": "load_avx", "16-byte": "load_sse"}
#: What each tool is compared with; the second run of the STREAM-like program with its first, which is the A/A control.
REFERENCES = {"stream": "ours", "stream again": "stream", "likwid": "ours, plain"}
Key = tuple[str, int, int]  # family, threads, working set in bytes or 0


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    counts = [int(n) for n in args.threads.split(",")]
    first = measure_ceilings(thread_counts=counts, measurement_s=0.02)
    load = LOADS.get(first.read_instructions.split()[0])
    likwid = shutil.which("likwid-bench")
    figures: dict[str, dict[Key, list[float]]] = {
        "ours": {},
        "ours, plain": {},
        "stream": {},
        "stream again": {},
        "likwid": {},
    }

    def ours(tool: str) -> None:
        plain = tool == "ours, plain"
        measured = measure_ceilings(thread_counts=counts, huge_pages=not plain, sequential_reads=plain)
        for row in measured.ceilings:
            keep(tool, (row.family, row.n_threads, row.working_set_bytes or 0), row.median)

    def keep(tool: str, key: Key, value: float) -> None:
        figures[tool].setdefault(key, []).append(value)

    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "stream_read")
        source = ROOT / "benchmarks/native/stream_read.c"
        command = ["cc", "-O3", "-ffast-math", "-march=native", "-pthread", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        sets: list[Key] = [
            (row.family, row.n_threads, row.working_set_bytes or 0)
            for row in first.ceilings
            if row.kind == READ_BANDWIDTH and row.family == "memory"
        ]
        peaks: list[Key] = [
            (row.family, row.n_threads, 0) for row in first.ceilings if row.kind == FLOPS and row.family in PEAKS
        ]

        def stream(tool: str) -> None:
            for key in sets:
                keep(tool, key, stream_read(program, key))

        def likwid_bench() -> None:
            for key in [*sets, *peaks] if load else peaks:
                keep("likwid", key, likwid_rate(str(likwid), PEAKS.get(key[0], str(load)), key))

        jobs: list[Callable[[], None]] = [
            lambda: ours("ours"),
            lambda: stream("stream"),
            lambda: stream("stream again"),
        ]
        if likwid:
            jobs += [likwid_bench, lambda: ours("ours, plain")]
        order = random.Random(0)
        for done in range(args.rounds):
            print(f"round {done + 1}/{args.rounds}", end="\r", file=sys.stderr, flush=True)
            for job in order.sample(jobs, len(jobs)):
                job()
    if not likwid:
        print("likwid-bench is not installed (Debian: apt install likwid): compared with the STREAM-like program only")
    return 0 if report(figures, sets, peaks) else 1


def stream_read(program: Path, key: Key) -> float:
    """Returns the median bytes/s of the STREAM-like program."""
    _, n_threads, size = key
    passes = max(5, min(500, 3 * 10**9 // size))
    done = subprocess.run(
        [str(program), str(size), str(n_threads), str(passes)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[1])


def likwid_rate(program: str, kernel: str, key: Key) -> float:
    """Returns bytes/s or flop/s of likwid-bench; its MByte and MFlop are 10^6."""
    _, n_threads, size = key
    text = f"{max(size // 1000, 32 * n_threads)}kB"
    command = [program, "-t", kernel, "-s", "1", "-W", f"N:{text}:{n_threads}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    figure = re.search(rf"^{'MByte' if size else 'MFlops'}/s:\s*([\d.]+)", done.stdout, re.M)
    if figure is None:
        raise SystemExit(f"{' '.join(command)} printed no rate:\n{done.stdout}{done.stderr}")
    return float(figure[1]) * 1e6


def report(figures: dict[str, dict[Key, list[float]]], sets: list[Key], peaks: list[Key]) -> bool:
    """Prints the tables and returns whether all bounds hold."""
    print(f"{'':<11} {'threads':>7} {'set MB':>8} {'tool':<13} {'G/s':>8} {'ours/theirs, 95 % interval':>28}")
    holds = True
    ratios = {}
    for key in [*sets, *peaks]:
        name, n_threads, size = key
        print(
            f"{name:<11} {n_threads:>7} {size / 1e6:>8.1f} {'ours':<13} {np.median(figures['ours'][key]) / 1e9:>8.2f}"
        )
        for tool, reference in REFERENCES.items():
            theirs = figures[tool].get(key)
            if not theirs:
                continue
            ratios[key, tool] = ratio = median_interval(np.divide(figures[reference][key], theirs))
            print(f"{'':<28} {tool:<13} {np.median(theirs) / 1e9:>8.2f} {ratio.shown(3):>28}")
    for key in [*sets, *peaks]:
        for tool in ("stream", "likwid"):
            if (key, tool) in ratios:
                title, median = f"{key[0]}, {key[1]} thread(s), ours / {tool}", ratios[key, tool].median
                holds &= verdict(title, median, at_least=0.9)
                holds &= verdict(title, median, at_most=1.1)
    return holds


if __name__ == "__main__":
    sys.exit(main())
