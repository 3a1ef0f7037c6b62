"""Greedy decoding gives the tokens of stock llama.cpp: same tree, same flags, without our hooks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import melt_core as melt

pytestmark = pytest.mark.alone
PROMPT = "<|im_start|>user\nExplain photosynthesis in one sentence.<|im_end|>\n<|im_start|>assistant\n"
N_OUTPUT = 64

#: Greedy decoding with llama.cpp's C API alone, in a process of its own.
STOCK = """
import ctypes, json, sys
import numpy as np
library, model, n_threads, n_output, ids = sys.argv[1], sys.argv[2].encode(), *map(json.loads, sys.argv[3:])
engine = ctypes.CDLL(library)
engine.bench_open.restype = ctypes.c_void_p
engine.bench_logits.restype = ctypes.POINTER(ctypes.c_float)
instance = ctypes.c_void_p(engine.bench_open(model, n_threads, 512, 1))
n_vocab = engine.bench_vocabulary(instance)
output, step = [], ids
for _ in range(n_output):
    assert engine.bench_evaluate(instance, (ctypes.c_int32 * len(step))(*step), len(step)) == 0
    step = [int(np.argmax(np.ctypeslib.as_array(engine.bench_logits(instance), (n_vocab,))))]
    output += step
print(json.dumps(output))
"""


@pytest.fixture(scope="module")
def stock_engine() -> Path:
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        from common import build
    finally:
        sys.path.pop(0)
    return build("stock_engine", stock=True) / "libstock_engine.so"


@pytest.mark.parametrize("n_threads", [1, 2])
def test_greedy_output_is_that_of_stock_llama_cpp(stock_engine: Path, demo: Path, n_threads: int) -> None:
    # GIVEN our build's greedy output, with ops recorded
    with melt.load(demo, n_ctx=512, n_threads=n_threads) as llm, melt.profile(llm) as profiler:
        ours = profiler.run(PROMPT, max_tokens=N_OUTPUT, ignore_eos=True, warmup=0, overhead_budget_s=0)
    # WHEN stock llama.cpp decodes the same prompt tokens
    arguments = [stock_engine, demo, n_threads, N_OUTPUT, json.dumps(list(ours.prompt_token_ids))]
    command = [sys.executable, "-c", STOCK, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    # THEN every token is the same
    assert tuple(json.loads(done.stdout)) == ours.token_ids
