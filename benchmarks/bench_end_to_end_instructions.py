"""What melt adds to upstream's llama-bench, counted and not timed: instructions per prefill and per token.

bench_llama_bench.py compares their speeds, in processes of their own: where a host is busy with others, its rounds
differ by more than the 2 % in question. The instructions of one thread do not differ. llama-bench's are the difference
between two runs of it, one of which does more; melt's are those inside its measured loop, ops recorded, between two
runs likewise. Melt samples and keeps each token there, which llama-bench does not. That the same instructions take as
long as in llama-bench is not shown here.

    .venv/bin/python benchmarks/bench_end_to_end_instructions.py [--prompt N] [--generate N]

Needs valgrind. Exits 1 if llama-bench's instructions are less than 0.98 of melt's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from callgrind import callgrind, instructions
from common import build, demo_model, verdict

MEASURED = "melt::MeasuredLoop::execute(melt::Repetition&)"


def llama_bench(program: Path, *, n_prompt: int, repeats: int, n_generate: int) -> Counter[str]:
    """Returns the instructions of a run of llama-bench: prefills, or tokens behind a prompt if any are to be made."""
    test = ["-p", "0", "-n", str(n_generate), "-d", str(n_prompt)] if n_generate else ["-p", str(n_prompt), "-n", "0"]
    command = [program, "-m", demo_model(), "-t", "1", "-fa", "auto", "-r", str(repeats), *test]
    _, (dump,) = callgrind(command)
    return instructions(dump)


def melt(program: Path, *, n_prompt: int, repeats: int, n_generate: int) -> Counter[str]:
    """Returns the instructions within the measured loop; a repetition's first token is the prefill's."""
    request = {
        "model": str(demo_model()),
        "n_threads": 1,
        "n_ctx": 256,
        "levels": ["tokens", "ops"],
        "prompt_tokens": n_prompt,
        "max_tokens": n_generate + 1,
        "repeats": repeats,
        "warmup": 0,
        "overhead_budget_s": 0,
    }
    _, (dump,) = callgrind([program, json.dumps(request), "/dev/null"], f"--toggle-collect={MEASURED}")
    return instructions(dump)


def main() -> int:
    """Builds, counts and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prefill")
    parser.add_argument("--generate", type=int, default=8, help="tokens in which the runs for decode differ")
    args = parser.parse_args()
    theirs = build("llama-bench", stock=True, portable=True, defines=("MELT_STOCK_LLAMA_BENCH=ON",)) / "bin/llama-bench"
    ours = build("profile_once", portable=True) / "benchmarks/profile_once"

    runs = {
        "prefill": ({"repeats": 1, "n_generate": 0}, {"repeats": 2, "n_generate": 0}),
        "decode": ({"repeats": 1, "n_generate": 8}, {"repeats": 1, "n_generate": 8 + args.generate}),
    }
    holds = True
    for phase, (less, more) in runs.items():
        print(f"counting {phase} ...", file=sys.stderr, flush=True)
        added = {}
        for name, count, program in (("llama-bench", llama_bench, theirs), ("melt", melt, ours)):
            added[name] = count(program, n_prompt=args.prompt, **more)
            added[name].subtract(count(program, n_prompt=args.prompt, **less))
        of_theirs, of_ours = added["llama-bench"].total(), added["melt"].total()
        print(f"{phase}: llama-bench {of_theirs / 1e6:.3f} M instructions, melt {of_ours / 1e6:.3f} M; most of it in")
        difference = Counter(added["melt"])
        difference.subtract(added["llama-bench"])
        for function, n in sorted(difference.items(), key=lambda item: -abs(item[1]))[:6]:
            print(f"  {n:>+12,}  {function[:80]}")
        holds &= verdict(f"{phase}, llama-bench over melt, by instructions", of_theirs / of_ours, at_least=0.98)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
