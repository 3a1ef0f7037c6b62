"""Whether melt is as fast as upstream's own llama-bench, built from the same tree with the same flags.

    .venv/bin/python benchmarks/bench_llama_bench.py [--sets S] [--rounds R] [--threads 1,2]

In each round two llama-benches and melt take turns in running a test, in random order, with the same token counts and
threads; the second llama-bench over the first is the A/A control. llama-bench times evaluation alone; melt's
decode_tok_s contains sampling, because a user waits for it. Exits 1 if the median of melt over llama-bench (mean of its
two) is below 0.98.

A machine that others use changes its speed within seconds, and a process is some percent faster or slower for as long
as it lives, by which physical memory it got. So the programs stay loaded and take turns: each stops itself when it has
printed a test's result. In each set, which starts them anew, they have their weights, KV caches and compute buffers in
the same memory (native/same_memory.h).

What runs before a phase changes its speed too, so it is the same for both:
- A prefill follows a prefill, and llama.cpp uses the graph again: melt stops at the first output token, as llama-bench
  does. Behind a decode the graph is built anew, which a user of either waits for.
- A decode follows a prefill. The first of its steps builds its graph anew, and about ten are slower than the rest
  (2 % of 64 tokens on a CPU with AMX). llama-bench would restore the prompt's state where it had the same depth before,
  so its depths alternate between one token more than melt's prompt and one less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from common import build, demo_model, median_interval, speed_verdict

#: Turns of each phase in a round: one is short, and so swings with what the machine does meanwhile, a prefill the most.
TURNS = {"prefill": 4, "decode": 3}
PROGRAMS = ("llama-bench", "llama-bench again", "melt")
TMPFS = "/dev/shm"
Speeds = dict[tuple[str, str], list[float]]  # tokens per second of each program and phase, by turn


class Program:
    """A program that prints a line of JSON for each test and stops itself then: native/stop_after_result.cpp."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts it.

        In a session of its own: where a shell ends before its background job does, the kernel makes all stopped
        processes of that job's group continue, at once.
        """
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def turn(self) -> dict[str, Any]:
        """Lets it run one test and returns what it printed."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        line = self._process.stdout.readline()
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        if not line or not os.WIFSTOPPED(status):
            raise RuntimeError(f"{self._process.args!r} ended early")
        result: dict[str, Any] = json.loads(line)
        return result

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def llama_bench(program: str, phase: str, n_threads: str, n_prompt: int, n_generate: int, n_turns: int) -> list[str]:
    """Returns a command that tests one phase `n_turns` times, after an evaluation that warms up."""
    command = [program, "-m", str(demo_model()), "-t", n_threads, "-fa", "auto", "-r", "1", "-o", "jsonl"]
    if phase == "prefill":
        return [*command, "-n", "0", "-p", ",".join([str(n_prompt)] * n_turns)]
    depths = (n_prompt + (1 if turn % 2 else -1) for turn in range(n_turns))
    return [*command, "-p", "0", "-n", str(n_generate), "-d", ",".join(map(str, depths))]


def melt(phase: str, n_threads: str, n_prompt: int, n_generate: int) -> list[str]:
    """Returns the same for melt."""
    # The first output token is the prefill's: one more makes as many decode steps as llama-bench has.
    n_output, n_warmup = (1, 1) if phase == "prefill" else (n_generate + 1, 0)
    script = Path(__file__).with_name("melt_turns.py")
    return [sys.executable, str(script), n_threads, *map(str, (n_prompt, n_output, n_warmup))]


def speed(result: dict[str, Any], phase: str) -> float:
    """Returns the tokens per second of a turn."""
    return float(result[phase] if phase in result else result["samples_ts"][0])


def turns(rounds: int, order: random.Random) -> Iterator[tuple[str, str]]:
    """Yields whose turn it is, as program and phase."""
    for _ in range(rounds):
        for phase, n_turns in TURNS.items():
            for _ in range(n_turns):
                yield from ((name, phase) for name in order.sample(PROGRAMS, len(PROGRAMS)))


def one_set(commands: dict[tuple[str, str], list[str]], preload: Path, rounds: int, order: random.Random) -> Speeds:
    """Starts the programs, lets them take turns, and returns what they printed."""
    speeds: Speeds = {key: [] for key in commands}
    with ExitStack() as stack:
        memory = stack.enter_context(tempfile.TemporaryDirectory(dir=TMPFS))
        environment = {**os.environ, "LD_PRELOAD": str(preload), "MELT_BENCH_MEMORY": memory}
        programs = {key: stack.enter_context(Program(command, environment)) for key, command in commands.items()}
        for program in programs.values():
            program.turn()  # loads the model and warms up
        for name, phase in turns(rounds, order):
            speeds[name, phase].append(speed(programs[name, phase].turn(), phase))
        if not any(Path(memory).iterdir()):
            raise RuntimeError("the programs have no memory in common: they would differ by where theirs lies")
    return speeds


def main() -> int:
    """Builds, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", type=int, default=6, help="how often the programs are started anew")
    parser.add_argument("--rounds", type=int, default=12, help="of each set")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    args = parser.parse_args()
    # llama-bench needs most of llama.cpp's tools library: the first build takes minutes.
    program = str(build("llama-bench", stock=True, defines=("MELT_STOCK_LLAMA_BENCH=ON",)) / "bin" / "llama-bench")
    preload = build("same_memory") / "benchmarks" / "libsame_memory.so"
    order = random.Random(0)
    holds = True
    for n_threads in args.threads.split(","):
        test = (n_threads, args.prompt, args.generate)
        commands = {
            (name, phase): melt(phase, *test)
            if name == "melt"
            else llama_bench(program, phase, *test, args.rounds * n_turns + 1)
            for name in PROGRAMS
            for phase, n_turns in TURNS.items()
        }
        sets = []
        for number in range(1, args.sets + 1):
            print(f"{n_threads} thread(s), set {number}/{args.sets}", end="\r", file=sys.stderr, flush=True)
            sets.append(one_set(commands, preload, args.rounds, order))
        for phase in TURNS:
            first, second, ours = (np.concatenate([speeds[name, phase] for speeds in sets]) for name in PROGRAMS)
            theirs = (first + second) / 2
            ratio, control = median_interval(ours / theirs), median_interval(second / first)
            best = max(ours) / max(*first, *second)
            print(
                f"{n_threads} thread(s), {phase}: llama-bench {np.median(theirs):.1f}, melt {np.median(ours):.1f} tok/s"
                f"\n  melt / llama-bench {ratio.shown(3)}, best to best {best:.3f}; control {control.shown(3)}"
            )
            title = f"{n_threads} thread(s), {phase}, melt / llama-bench"
            holds &= speed_verdict(title, ratio, at_least=0.98, control=control)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
