"""Checks a model directory that was just written: the shards' checksums, and logits against the source.

Three comparisons, two of them over a few positions of a prompt, one part of it prefilled and one decoded:

- **weights**: each value as it was written, against the source's, in half steps of what can be written: at most one,
  or it is not the nearest. What is left is quantisation.
- **kernels**: the library against NumPy in float32 with the weights as they were written. What is left is rounding.
- **logits**: the library against NumPy with the source's weights. What is left is what quantisation does to the model.

An error of logits is the length of the difference over the length of what is expected, over all rows, each without its
mean, which softmax does not see.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melt_core.errors import ModelError
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.files import CACHE_NAMES, CONFIG_NAME
from melt_core.models.mlc.packing import dequantize, half_steps
from melt_core.models.mlc.quantization import Quantization, quantization_of
from melt_core.models.mlc.reference import Reference
from melt_core.models.mlc.source import FloatArray, Source
from melt_core.models.mlc.targets import Machine
from melt_core.models.mlc.writer import read_parameters

N_PREFILL, N_DECODE = 20, 4


@dataclass(frozen=True)
class Bounds:
    """Largest errors: of a value in half steps; relative ones of the kernels, and of logits against the source's."""

    weights: float
    kernels: float
    logits: float


#: One, and what rounding in between adds.
_NEAREST = 1.02
#: By quantisation. What was seen on SmolLM2-135M stands in docs/mlc.md; two unrelated models' logits are 1.4 apart.
BOUNDS = {
    "q0f32": Bounds(0.0, 1e-3, 1e-3),
    "q0f16": Bounds(_NEAREST, 2e-2, 2e-2),
    "q4f32_1": Bounds(_NEAREST, 1e-1, 1.0),
    "q4f16_1": Bounds(_NEAREST, 1e-1, 1.0),
    "q3f16_1": Bounds(_NEAREST, 1e-1, 1.4),
}


@dataclass(frozen=True)
class Verification:
    """What the checks found; errors of logits are None where the library cannot run here, and `reason` says why."""

    weights_error: float
    kernels_error: float | None
    logits_error: float | None
    bounds: Bounds
    reason: str = ""


def verify_shards(folder: Path) -> None:
    """Compares the checksums of all shards with the list.

    Raises:
        ModelError: One differs: the disk does not keep what was written.
    """
    for shard in json.loads((folder / CACHE_NAMES[0]).read_text(encoding="utf-8"))["records"]:
        digest = hashlib.md5(usedforsecurity=False)
        with (folder / shard["dataPath"]).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != shard["md5sum"]:
            raise ModelError(f"{shard['dataPath']} does not read back as it was written: is the disk damaged?")


def verify_values(folder: Path, source: Source, quantization: Quantization, machine: Machine) -> Verification:
    """Compares what was written, and what the library makes of it, with the source.

    Raises:
        ModelError: The library fails, or an error is beyond its bound.
    """
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, N_PREFILL + N_DECODE).tolist()
    written = WrittenParameters(folder, source.config, quantization)
    compared = _Compared(source, written)
    expected = Reference(source.config, compared).evaluate(ids, N_DECODE + 1)
    bounds = BOUNDS[quantization.name]
    _require("weights", compared.error, bounds.weights)
    if not machine.is_host:
        return Verification(compared.error, None, None, bounds, f"compiled for {machine.name}: cannot run here")
    found = run_library(folder, ids)
    kernels = error_of(found, Reference(source.config, written).evaluate(ids, N_DECODE + 1))
    _require("kernels", kernels, bounds.kernels)
    logits = error_of(found, expected)
    _require("logits", logits, bounds.logits)
    return Verification(compared.error, kernels, logits, bounds)


_MEANING = {
    "weights": "its weights are off by {} half steps of their format against the source's",
    "kernels": "its logits are off by {} against NumPy with the same weights",
    "logits": "its logits are off by {} against the source model's",
}


def _require(what: str, error: float, bound: float) -> None:
    if not error <= bound:  # NaN too
        raise ModelError(f"the converted model is wrong: {_MEANING[what].format(f'{error:.3g}')}, allowed is {bound:g}")


class _Compared:
    """Gives the source's parameters, and compares each with what was written of it."""

    def __init__(self, source: Source, written: WrittenParameters) -> None:
        self._source, self._written = source, written
        self.error = 0.0

    def __call__(self, name: str) -> FloatArray:
        values = self._source.parameter(name)
        steps = half_steps(values, self._written.quantization, packed=self._written.is_packed(name))
        off = np.abs(self._written(name) - values)
        off = np.divide(off, steps, out=np.where(off == 0, 0, np.inf).astype(np.float32), where=steps > 0)
        self.error = float(np.maximum(self.error, off.max(initial=0)))  # NaN stays
        return values


def error_of(found: FloatArray, expected: FloatArray) -> float:
    """Returns the relative error of rows of logits; NaN where a value is not finite."""
    a, b = (rows - rows.mean(axis=-1, keepdims=True) for rows in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


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


def reference_of(folder: Path) -> Reference:
    """Returns a directory's model in NumPy, with its parameters as they were written."""
    chat = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config = ModelConfig(**chat["model_config"])
    return Reference(config, WrittenParameters(folder, config, quantization_of(chat["quantization"])))


class WrittenParameters:
    """Gives a parameter's values as they were written, unpacked, by its name."""

    def __init__(self, folder: Path, config: ModelConfig, quantization: Quantization) -> None:
        self._stored, self._matrices = read_parameters(folder), config.matrices()
        self.quantization = quantization

    def is_packed(self, name: str) -> bool:
        """Returns whether the parameter lies in words with scales."""
        return name not in self._stored

    def __call__(self, name: str) -> FloatArray:
        """Returns them in float32, in the parameter's shape."""
        if not self.is_packed(name):
            plain: FloatArray = self._stored[name].astype(np.float32)
            return plain
        matrix = name.removesuffix(".weight")
        words, scales = self._stored[f"{matrix}.q_weight"], self._stored[f"{matrix}.q_scale"]
        return dequantize(words, scales, self._matrices[matrix][1], self.quantization)
