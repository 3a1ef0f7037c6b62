"""Whether converted models run as fast as llama.cpp does: the demo's q4f32_1 and q4f16_1 against its Q4_1.

    .venv/bin/python benchmarks/bench_mlc_speed.py [--rounds R] [--threads 1,2] [--quant q4f32_1,q4f16_1]

The runtimes take turns in processes of their own, with the same token ids, threads and levels (no ops are recorded).
Decode is after a prompt of 128 tokens. Exits 1 if decode reaches less than 0.95 of llama.cpp's speed, or prefill of 128
or 512 tokens less than 1.0 of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np

from common import BIN, demo_model, median_interval, mlc_model, verdict

PROMPTS = (128, 512)
BOUNDS = {"decode": 0.95, **{f"prefill {n}": 1.0 for n in PROMPTS}}


def main() -> int:
    """Runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--quant", default="q4f32_1,q4f16_1")
    args = parser.parse_args()
    models = {"llama.cpp": str(demo_model())}
    models |= {quantization: str(mlc_model(quantization)) for quantization in args.quant.split(",")}
    holds = True
    for n_threads in args.threads.split(","):
        found: dict[tuple[str, str], list[float]] = {}
        for number in range(args.rounds):
            names = list(models) if number % 2 == 0 else list(models)[::-1]
            for name in names:
                for phase, speed in speeds(models[name], name, n_threads).items():
                    found.setdefault((name, phase), []).append(speed)
        for name in models:
            if name == "llama.cpp":
                continue
            for phase, bound in BOUNDS.items():
                ours, theirs = found[name, phase], found["llama.cpp", phase]
                ratio = median_interval(np.divide(ours, theirs))
                shown = f"{np.median(ours):.1f} tok/s, llama.cpp {np.median(theirs):.1f} tok/s"
                print(f"{name}, {n_threads} thread(s), {phase}: {shown}, pairs {ratio.shown(3)}")
                holds &= verdict(
                    f"{name}, {n_threads} thread(s), {phase}, mlc / llama.cpp", ratio.median, at_least=bound
                )
    return 0 if holds else 1


def speeds(model: str, name: str, n_threads: str) -> dict[str, float]:
    """Returns tokens per second of each phase, medians over a process's repetitions."""
    found = {}
    for n_prompt in PROMPTS:
        command = [str(BIN / "melt"), "profile", model, "--prompt-tokens", str(n_prompt), "--threads", n_threads]
        command += ["--runtime", "llama.cpp" if name == "llama.cpp" else "mlc", "--ctx", "1024", "--levels", "tokens"]
        command += ["--max-tokens", "33" if n_prompt == PROMPTS[0] else "2", "--ignore-eos", "--repeats", "3"]
        command += ["--overhead-seconds", "0", "--json"]
        summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[f"prefill {n_prompt}"] = summary["prefill_tok_s"]
        if n_prompt == PROMPTS[0]:
            found["decode"] = summary["decode_tok_s"]
    return found


if __name__ == "__main__":
    sys.exit(main())
