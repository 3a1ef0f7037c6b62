"""Memory predicted from a file's header, against what a session then holds: error per architecture and quantization.

Method: tiny random-weight models, each architecture in each quantization, and the demo model. Predicted by the dry run
in a child process (`melt models inspect --ctx`); measured is the sum of the buffers that the loaded session reports
after a run. The demo model's process is also compared: predicted total against VmHWM of a process that loads and runs
it, and the frontier under a limit of 1 GB.

Run: python benchmarks/bench_fit.py     Needs: a prepared llama.cpp tree (`make setup`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, demo_model, verdict

sys.path.insert(0, str(ROOT / "tests"))

from gguf import GGMLQuantizationType as TensorType

from fakes.tiny_models import ARCHITECTURES, write_model
from melt_core.profiling.fit import MemoryOptions, predict_memory
from melt_core.profiling.frontier import find_context

TYPES = (TensorType.F16, TensorType.Q8_0, TensorType.Q5_0, TensorType.Q4_1, TensorType.Q4_0)
LIMIT_BYTES = 1_000_000_000

LOAD_AND_RUN = """
import sys
import melt_core as melt
model, n_ctx, kv_type = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with melt.load(model, n_ctx=n_ctx, kv_type=kv_type, n_threads=1) as llm:
    with melt.profile(llm, levels=("tokens",), log_bytes=4096) as prof:
        prof.run([5] * min(512, n_ctx - 2), max_tokens=2, ignore_eos=True, warmup=0, overhead_budget_s=0.0)
    held = sum(part.bytes for part in llm.info.memory)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(held, int(peak.split()[1]) * 1024)
"""


def measure(model: Path, options: MemoryOptions) -> tuple[int, int]:
    """Returns the bytes of a session's buffers, and the greatest resident size of its process."""
    command = [sys.executable, "-c", LOAD_AND_RUN, str(model), str(options.n_ctx), options.kv_type]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    held, peak = map(int, done.stdout.split())
    return held, peak


def compare(label: str, model: Path, options: MemoryOptions) -> float:
    """Prints one row and returns the relative error of the buffers' sum."""
    predicted = sum(part.bytes for part in predict_memory(model, options).forecast.parts)
    held, _ = measure(model, options)
    error = abs(predicted / held - 1)
    print(f"{label:<28}{options.n_ctx:>6} {options.kv_type:<5}{predicted:>14,}{held:>14,}{error:>9.4%}")
    return error


def compare_process(model: Path) -> float:
    """Prints the demo model's process and returns the relative error of its total."""
    options = MemoryOptions(n_ctx=2048)
    total = predict_memory(model, options).total_bytes
    _, peak = measure(model, options)
    print(f"demo, whole process: predicted {total:,}, VmHWM {peak:,} bytes")
    return abs(total / peak - 1)


def main() -> int:
    """Prints the rows and verdicts. Returns 1 if a bound is missed."""
    print(f"{'model':<28}{'n_ctx':>6} {'KV':<5}{'predicted':>14}{'measured':>14}{'error':>9}")
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for architecture in ARCHITECTURES:
            for kind in TYPES:
                model = write_model(Path(folder) / "model.gguf", architecture, weight_type=kind)
                errors.append(compare(f"{architecture} {kind.name.lower()}", model, MemoryOptions(n_ctx=512)))
    demo = demo_model()
    for options in (MemoryOptions(n_ctx=512), MemoryOptions(n_ctx=2048), MemoryOptions(n_ctx=8192, kv_type="q8_0")):
        errors.append(compare("demo q4_1", demo, options))
    process_error = compare_process(demo)
    frontier = find_context(demo, MemoryOptions(), limit_bytes=LIMIT_BYTES, most=1 << 16)
    print(f"demo under {LIMIT_BYTES:,} bytes: n_ctx predicted {frontier.predicted}, found {frontier.found}")
    holds = [
        verdict("largest error of the buffers' sum", max(errors), at_most=0.05),
        verdict("error of the demo's whole process", process_error, at_most=0.05),
        verdict("frontier, predicted / found - 1", abs((frontier.agreement_ratio or 0) - 1), at_most=0.1),
    ]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
