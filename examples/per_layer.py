"""Shows what each layer of the demo model spends in attention, feed-forward and the rest of a decode step."""

import numpy as np

import melt_core as melt
from melt_core.models import model_path

with melt.load(model_path("demo"), n_ctx=128, n_threads=2) as llm, melt.profile(llm) as prof:
    prof.run("Once upon a time", max_tokens=8, ignore_eos=True, overhead_budget_s=0)

ops = prof.trace.ops
decode = ops[(ops["run"] == 1) & (ops["phase"] == "decode") & (ops["thread"] == 0)]  # run 0 is the warm-up
decode = decode[decode["backend"] == "CPU"]  # without sampling, which is done on the host
n_steps = len(np.unique(decode["token"]))
wall_ns = (decode["compute_ns"] + decode["wait_ns"]).reshape(n_steps, -1)
wall_us = np.median(wall_ns, axis=0) / 1e3  # of each op, over the steps
layers, modules = decode["layer"][: len(wall_us)], decode["module"][: len(wall_us)]

print(f"{'layer':>6}{'attention':>11}{'ffn':>8}{'other':>8}   us per decoded token")
for layer in np.unique(layers):
    mine = layers == layer
    attention = wall_us[mine & (modules == "attention")].sum()
    ffn = wall_us[mine & (modules == "ffn")].sum()
    other = wall_us[mine].sum() - attention - ffn
    name = "none" if layer < 0 else layer  # -1: outside the layers
    print(f"{name:>6}{attention:>11.1f}{ffn:>8.1f}{other:>8.1f}")
