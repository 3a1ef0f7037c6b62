"""Lists the ops of the demo model that take longest in a decode step, and the rate at which each moves bytes.

The time of an op is its median over the steps: one step that was disturbed does not decide. Bytes are what an op must
read and write once (docs/op_costs.md), so the rate is derived, not measured.
"""

import numpy as np

import melt_core as melt
from melt_core.models import model_path

with melt.load(model_path("demo"), n_ctx=128, n_threads=2) as llm, melt.profile(llm) as prof:
    prof.run("Once upon a time", max_tokens=8, ignore_eos=True, overhead_budget_s=0)

ops = prof.trace.ops
decode = ops[(ops["run"] == 1) & (ops["phase"] == "decode") & (ops["thread"] == 0)]  # run 0 is the warm-up
decode = decode[decode["backend"] == "CPU"]  # without sampling, which is done on the host
n_steps = len(np.unique(decode["token"]))
wall_ns = np.median((decode["compute_ns"] + decode["wait_ns"]).reshape(n_steps, -1), axis=0)

step = decode[: len(wall_ns)]  # every decode step has the same ops
print(f"{'op':<26}{'op_type':<16}{'us':>8}{'share':>8}{'GB/s':>8}")
for i in np.argsort(-wall_ns)[:10]:
    row = step[int(i)]
    gb_s = (row.bytes_read + row.bytes_written) / wall_ns[i]
    print(f"{row.op:<26}{row.op_type:<16}{wall_ns[i] / 1e3:>8.1f}{wall_ns[i] / wall_ns.sum():>8.1%}{gb_s:>8.2f}")
