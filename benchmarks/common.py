"""What the benchmark scripts share: building their C++ halves and printing verdicts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
BIN = Path(sys.executable).parent
#: How far from 1 the interval of an A/A control may reach.
STEADY_WITHIN = 0.02
#: Of fewer samples there is no 95 % interval: all lie on one side of the truth in 2 of 2^n cases.
LEAST_SAMPLES = 6


def build(target: str, *, stock: bool = False, portable: bool = False, defines: tuple[str, ...] = ()) -> Path:
    """Configures and builds one target of the benchmark build; returns that build's folder.

    Args:
        target: The CMake target.
        stock: Whether it belongs to the project of stock llama.cpp, not to ours.
        portable: Whether to build, in a folder apart, for any processor with AVX2 instead of for this one.
        defines: Cache entries, as ``NAME=VALUE``.
    """
    source, folder = (ROOT / "benchmarks" / "stock", BUILD / "stock") if stock else (ROOT, BUILD / "melt")
    options = defines if stock else ("MELT_BUILD_BENCHMARKS=ON", *defines)
    if portable:
        folder = folder.with_name(f"{folder.name}-portable")
        options = ("MELT_PORTABLE=ON", *options)
    cmake = str(BIN / "cmake")
    command = [cmake, "-S", str(source), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"]
    subprocess.run([*command, *(f"-D{define}" for define in options)], check=True, stdout=subprocess.DEVNULL)
    print(f"building {target} ...", file=sys.stderr, flush=True)
    subprocess.run([cmake, "--build", str(folder), "--target", target], check=True, stdout=subprocess.DEVNULL)
    return folder


def demo_model() -> Path:
    """Returns the demo model's path, fetching it if need be."""
    from melt_core.models import model_path

    return model_path("demo")


def mlc_model(quantization: str) -> Path:
    """Returns the demo model as an MLC directory in this quantisation, converted with this source tree if need be."""
    sources = sorted((ROOT / "src/melt_core/models/mlc").rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    folder = ROOT / "out" / "mlc" / f"demo-{quantization}-{digest}"
    if not folder.exists():
        from melt_core.models.mlc.convert import convert

        print(f"converting the demo model to {quantization} ...", file=sys.stderr, flush=True)
        convert(demo_model(), folder, quantization=quantization)
    return folder


class Interval(NamedTuple):
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float
    n_samples: int

    def shown(self, digits: int = 4) -> str:
        """Returns it as text, such as 0.998 [0.993, 1.004]."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def median_interval(values: ArrayLike, *, seed: int = 0, n_resamples: int = 2000) -> Interval:
    """Returns the median with its bootstrap interval."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(data, size=(n_resamples, data.size))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Interval(float(np.median(data)), float(low), float(high), data.size)


def verdict(name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> bool:
    """Prints one figure against its bound and returns whether it holds."""
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    bound = f">= {at_least}" if at_least is not None else f"<= {at_most}"
    print(f"{'holds ' if holds else 'MISSED'}  {name}: {value:.4g} ({bound})")
    return holds


def speed_verdict(name: str, ratio: Interval, *, at_least: float, control: Interval) -> bool:
    """Prints a ratio of speeds against its bound and returns whether it holds.

    The median decides where the A/A control, which compares a thing with itself, is within 2 % of 1. Where it is not,
    the whole interval must lie on one side of the bound, and the control's must contain 1: else the machine's noise
    could be all that differs, so that nothing is known, and that is no success. Nor is a figure of few samples.
    """
    enough = min(ratio.n_samples, control.n_samples) >= LEAST_SAMPLES
    steady = max(abs(end - 1) for end in (control.low, control.high)) <= STEADY_WITHIN
    clear = control.low <= 1 <= control.high and not ratio.low < at_least <= ratio.high
    if enough and (steady or clear):
        return verdict(name, ratio.median, at_least=at_least)
    print(f"UNSURE  {name}: {ratio.shown()} (>= {at_least}), but {ratio.n_samples} samples, control {control.shown()}")
    return False
