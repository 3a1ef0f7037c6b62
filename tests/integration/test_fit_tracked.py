"""What `melt models inspect FILE --ctx N` predicts, against the buffers that level memory then tracks; and what a load
refuses by the same prediction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from fakes.tiny_models import Dims, TensorType, write_model
from melt_core.errors import OutOfMemoryError
from melt_core.profiling.fit import MemoryOptions, part_bytes, predict_memory
from melt_core.runtime.memory import forecast_here
from melt_core.trace.format import ChunkKind, MemoryCategory, MemoryEvent

from .conftest import Outcome

Cli = Callable[..., Outcome]

#: Dense, windowed, fused and biased attention; experts; recurrent; hybrid.
ARCHITECTURES = ("llama", "gemma2", "phi3", "qwen2", "olmoe", "mamba", "jamba")
TYPES = (TensorType.F16, TensorType.Q8_0, TensorType.Q4_1, TensorType.Q4_0)
#: The project's bound on the total.
WITHIN = 0.05
#: Bookkeeping of the cache for one token (llama-kv-cells.h), as the core counts it.
CELL_BYTES = 50


def tracked(model: Path, n_ctx: int) -> dict[str, int]:
    """Returns the most bytes that the runtime's buffers of each category had, by their own events."""
    with melt.load(model, n_ctx=n_ctx, n_threads=1) as llm, melt.profile(llm, levels=("tokens", "memory")) as profiler:
        profiler.run([1] * (n_ctx - 4), max_tokens=2, warmup=0, ignore_eos=True)
    live: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for row in profiler.trace.records(ChunkKind.ALLOCATIONS):
        name = MemoryCategory(row["category"]).name.lower()
        came = row["event"] in (MemoryEvent.ALLOCATED, MemoryEvent.MAPPED)
        live[name] += int(row["bytes"]) * (1 if came else -1)
        most[name] = max(most[name], live[name])
    return dict(most)


@pytest.mark.parametrize("weight_type", TYPES, ids=lambda weight_type: weight_type.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tracked_buffers_are_those_predicted(
    vocabularies: Path, tmp_path: Path, cli: Cli, architecture: str, weight_type: TensorType
) -> None:
    model = write_model(tmp_path / "model.gguf", architecture, weight_type=weight_type)
    inspected = cli("models", "inspect", model, "--ctx", 128, "--json")
    assert inspected.code == 0, inspected.err
    rows = json.loads(inspected.out)["memory"]["categories"]
    predicted = {row["category"]: row["bytes"] for row in rows if row["bytes"] and row["category"] != "process"}
    measured = tracked(model, 128)
    assert sum(predicted.values()) == pytest.approx(sum(measured.values()), rel=WITHIN)
    assert predicted == measured  # to the byte


def test_the_whole_process_is_within_the_bound(demo: Path, tmp_path: Path) -> None:
    # As `melt profile` measures it: a process that has loaded and run the model, beside nothing else.
    predicted = predict_memory(demo, MemoryOptions(n_ctx=2048)).total_bytes
    request = melt.ProfileRequest(
        model=str(demo), output=str(tmp_path / "t.melt"), prompt_tokens=512, max_tokens=2, warmup=0, repeats=1,
        levels=("tokens",), n_ctx=2048, n_threads=1, overhead_budget_s=0,
    )  # fmt: skip
    peak = melt.profile_in_child(request).trace.runs["peak_rss_bytes"].max()
    assert predicted == pytest.approx(peak, rel=WITHIN)


@pytest.mark.parametrize("architecture", ["jamba", "falcon-h1", "mamba2"])
def test_a_recurrent_state_is_counted_once(vocabularies: Path, tmp_path: Path, architecture: str) -> None:
    # GIVEN two models that differ by megabytes of recurrent state
    forecasts = []
    for state in (16, 512):
        dims = Dims(embd=256, layers=16, state=state)
        model = write_model(tmp_path / f"{state}.gguf", architecture, dims=dims, weight_type=TensorType.Q8_0)
        forecasts.append(predict_memory(model, MemoryOptions(n_ctx=64)).forecast)
    small, large = (part_bytes(forecast.parts, "kv") for forecast in forecasts)
    assert large - small > 7 << 20
    # THEN the process around them is as large
    sizes = [(forecast.process_resident_bytes, forecast.process_reserved_bytes) for forecast in forecasts]
    for before, after in zip(*sizes, strict=True):
        assert before is not None
        assert after is not None
        assert abs(after - before) < 3 << 20


def limit_memory(root: Path, version: int, limit_bytes: int) -> dict[str, str]:
    """Writes the /proc and /sys of a container on a machine of 8 GB; returns the environment that names them."""
    group = root / ("sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory")
    files = {
        root / "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n",
        root / "proc/self/cgroup": "0::/\n" if version == 2 else "4:memory:/docker/abc\n",
        group / ("memory.max" if version == 2 else "memory.limit_in_bytes"): f"{limit_bytes}\n",
        group / ("memory.current" if version == 2 else "memory.usage_in_bytes"): "0\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"MELT_PROCFS_ROOT": str(root / "proc"), "MELT_SYSFS_ROOT": str(root / "sys")}


@pytest.mark.parametrize(
    ("architecture", "version"), [("llama", 1), ("llama", 2), ("gemma3", 2), ("falcon-h1", 2), ("mamba", 1)]
)
def test_a_context_is_refused_by_what_it_really_takes(
    vocabularies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, version: int
) -> None:
    # GIVEN what the context takes to the byte, more than any of its buffers
    model = write_model(tmp_path / "model.gguf", architecture)
    options = {"n_ctx": 4096, "repack": False}
    parts = [part for part in forecast_here(model, **options).parts if part.category in ("kv", "compute", "output")]
    needed = sum(part.bytes for part in parts) + CELL_BYTES * 4096
    assert needed > max(part.bytes for part in parts)

    def load_with(limit_bytes: int) -> None:
        for name, value in limit_memory(tmp_path, version, limit_bytes).items():
            monkeypatch.setenv(name, value)
        melt.load(model, n_threads=1, **options).close()

    # WHEN a container has a byte less
    with pytest.raises(OutOfMemoryError, match=r"a context of 4096 tokens needs at least .* \(.*memory\.(max|limit)"):
        load_with(needed - 1)
    # AND as much as that
    load_with(needed)
