"""Measures a model whose op durations are known, and compares what was recorded with what is true.

The synthetic runtime computes nothing: its ops last as long as its description says, here on a simulated clock.
"""

import melt_core as melt

OP_NS = 80_000  # a MUL_MAT of one token on thread 0; the norm takes a tenth of it, the ADD a fifth
SKEW = 25  # thread 1 is so many percent faster, and then waits

MODEL = f"layers=3,op_ns={OP_NS},skew={SKEW}"

with melt.load(MODEL, runtime="synthetic", n_threads=2) as llm, melt.profile(llm) as prof:
    prof.run("Hello", max_tokens=4, repeats=2)

ops = prof.trace.ops
matmul = (ops["op_type"] == "MUL_MAT") & (ops["phase"] == "decode")
for thread, true_compute_ns in ((0, OP_NS), (1, OP_NS * (100 - SKEW) // 100)):
    rows = matmul & (ops["thread"] == thread)
    compute_ns, wait_ns = set(ops["compute_ns"][rows].tolist()), set(ops["wait_ns"][rows].tolist())
    print(f"thread {thread}: computes {compute_ns} ns and waits {wait_ns} ns")
    assert compute_ns == {true_compute_ns}
    assert wait_ns == {OP_NS - true_compute_ns}

print(f"conservation: {prof.trace.summary().conservation.median:.2%}")
