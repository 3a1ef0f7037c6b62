"""How much faster our kernels are than the schedules that mlc_llm has for a CPU, which are TVM's own: none.

    .venv/bin/python benchmarks/bench_mlc_stock.py [--threads T] [--prompt N]

The same q4f32_1 weights of the demo, two libraries: ours, and mlc_stock_model.py's. Exits 1 if decode or prefill is
less than ten times as fast.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from common import BIN, mlc_model, verdict

MODEL = Path(__file__).with_name("mlc_stock_model.py")


def main() -> int:
    """Compiles, runs and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", default="40")
    args = parser.parse_args()
    ours = mlc_model("q4f32_1")
    stock = ours.with_name(f"{ours.name}-stock")
    if not stock.exists():
        partial = ours.with_name(f".{stock.name}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(ours, partial)
        print("compiling with TVM's own schedules ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, str(MODEL), str(partial), str(partial / "model.so")], check=True)
        partial.rename(stock)
    fast, slow = (speeds(folder, args.threads, args.prompt) for folder in (ours, stock))
    holds = True
    for phase in ("decode", "prefill"):
        print(f"{phase}: {fast[phase]:.1f} tok/s, stock {slow[phase]:.1f} tok/s")
        holds &= verdict(f"{phase}, ours / stock", fast[phase] / slow[phase], at_least=10)
    return 0 if holds else 1


def speeds(folder: Path, n_threads: str, n_prompt: str) -> dict[str, float]:
    """Returns tokens per second of both phases."""
    command = [str(BIN / "melt"), "profile", str(folder), "--runtime", "mlc", "--prompt-tokens", n_prompt]
    command += ["--threads", n_threads, "--ctx", "256", "--levels", "tokens", "--max-tokens", "13", "--ignore-eos"]
    command += ["--repeats", "1", "--warmup", "0", "--overhead-seconds", "0", "--json"]
    summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"prefill": summary["prefill_tok_s"], "decode": summary["decode_tok_s"]}


if __name__ == "__main__":
    sys.exit(main())
