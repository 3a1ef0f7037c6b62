"""Checks a model directory that was just written: the shards' checksums, and logits against the source.

Two comparisons, over a few positions of a prompt, one part of it prefilled and one decoded:

- **kernels**: the library against NumPy in float32 with the weights as they were written. What is left is rounding.
- **source**: the library against NumPy with the weights of the source. What is left is mostly quantisation.

The error is the length of the difference of two rows of logits over the length of the expected one, both without their
means, which softmax does not see; the worst row counts.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from melt_core.errors import ModelError
from melt_core.models.mlc.quantization import Quantization, dequantize
from melt_core.models.mlc.reference import Reference
from melt_core.models.mlc.source import FloatArray, Source
from melt_core.models.mlc.targets import Machine
from melt_core.models.mlc.writer import CACHE_NAME, read_parameters

N_PREFILL, N_DECODE = 20, 4

#: Largest error of the kernels and against the source, by quantisation. Seen on SmolLM2-135M: see docs/mlc.md.
BOUNDS = {
    "q0f32": (1e-3, 1e-3),
    "q0f16": (2e-2, 2e-2),
    "q4f32_1": (5e-2, 0.5),
    "q4f16_1": (5e-2, 0.5),
    "q3f16_1": (5e-2, 0.9),
}


@dataclass(frozen=True)
class Verification:
    """What the checks found; errors are None where the library cannot run here, and `reason` says why."""

    kernels_error: float | None
    kernels_bound: float
    source_error: float | None
    source_bound: float
    reason: str = ""


def verify_shards(folder: Path) -> None:
    """Compares the checksums of all shards with the list.

    Raises:
        ModelError: One differs: the disk does not keep what was written.
    """
    for shard in json.loads((folder / CACHE_NAME).read_text(encoding="utf-8"))["records"]:
        digest = hashlib.md5(usedforsecurity=False)
        with (folder / shard["dataPath"]).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != shard["md5sum"]:
            raise ModelError(f"{shard['dataPath']} does not read back as it was written: is the disk damaged?")


def verify_logits(folder: Path, source: Source, quantization: Quantization, machine: Machine) -> Verification:
    """Runs the library and compares its logits.

    Raises:
        ModelError: It fails, or an error is beyond its bound.
    """
    kernels_bound, source_bound = BOUNDS[quantization.name]
    if not machine.is_host:
        return Verification(None, kernels_bound, None, source_bound, f"compiled for {machine.name}: cannot run here")
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, N_PREFILL + N_DECODE).tolist()
    found = run_library(folder, ids)
    written = Reference(source.config, _written(folder, quantization)).evaluate(ids, N_DECODE + 1)
    kernels_error = error_of(found, written)
    if quantization.name == "q0f32":
        source_error = kernels_error
    else:
        source_error = error_of(found, Reference(source.config, source.parameter).evaluate(ids, N_DECODE + 1))
    for what, error, bound in (("kernels", kernels_error, kernels_bound), ("source", source_error, source_bound)):
        if not error <= bound:  # NaN too
            against = "its own weights in NumPy" if what == "kernels" else "the source model"
            raise ModelError(f"the converted model is off by {error:.3g} against {against}, and {bound:g} is allowed")
    return Verification(kernels_error, kernels_bound, source_error, source_bound)


def error_of(found: FloatArray, expected: FloatArray) -> float:
    """Returns the relative error of the worst row; NaN where a value is not finite."""
    a, b = (rows - rows.mean(axis=-1, keepdims=True) for rows in (found, expected))
    return float((np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max())


def run_library(folder: Path, ids: list[int]) -> FloatArray:
    """Returns logits [N_DECODE + 1, vocabulary]: after the prefilled part and after each decoded token.

    In a process of its own, which may fail without harm.

    Raises:
        ModelError: It failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "logits.npy")
        command = [sys.executable, "-m", "melt_core.models.mlc.compiler.run", str(folder), str(output), str(N_PREFILL)]
        done = subprocess.run([*command, *map(str, ids)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise ModelError(f"the compiled library does not run: {last}")
        logits: FloatArray = np.load(output)
    return logits


def _written(folder: Path, quantization: Quantization):  # type: ignore[no-untyped-def]
    stored = read_parameters(folder)

    def parameter(name: str) -> FloatArray:
        if name in stored:
            plain: FloatArray = stored[name].astype(np.float32)
            return plain
        words = stored[name.replace(".weight", ".q_weight")]
        scales = stored[name.replace(".weight", ".q_scale")]
        k = scales.shape[1] * quantization.group
        return dequantize(words, scales, k, quantization)

    return lru_cache(maxsize=None)(parameter)
