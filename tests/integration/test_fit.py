"""Memory predicted before loading, against what a session really holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import psutil
import pytest
from gguf import GGMLQuantizationType as TensorType

import melt_core as melt
from fakes.tiny_models import ARCHITECTURES, Dims, write_model
from integration.conftest import MELT, TIMEOUT_S, Outcome
from melt_core.errors import InvalidArgumentError, ModelError, OutOfMemoryError
from melt_core.profiling.fit import MemoryOptions, predict_memory
from melt_core.profiling.frontier import find_batch, find_context
from melt_core.runtime.memory import MemoryPart, device_memory, forecast_here

TYPES = (TensorType.F16, TensorType.Q8_0, TensorType.Q4_0, TensorType.Q4_1, TensorType.Q5_0)
#: The bound that the project has set itself, on the total.
WITHIN = 0.05

Cli = Callable[..., Outcome]


def by_category(parts: Sequence[MemoryPart]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in parts:
        sizes[part.category] = sizes.get(part.category, 0) + part.bytes
    return sizes


def assert_predicted(model: Path, **options: object) -> None:
    predicted = by_category(forecast_here(model, **options).parts)  # type: ignore[arg-type]
    with melt.load(str(model), n_threads=2, **options) as llm:  # type: ignore[arg-type]
        measured = by_category(llm.info.memory)
    assert predicted.keys() == measured.keys()
    assert sum(predicted.values()) == pytest.approx(sum(measured.values()), rel=WITHIN)
    for category, size in measured.items():
        assert predicted[category] == pytest.approx(size, rel=WITHIN), category


@pytest.mark.parametrize("number", range(len(ARCHITECTURES)), ids=lambda number: ARCHITECTURES[number])
def test_every_architecture_holds_what_was_predicted(vocabularies: Path, tmp_path: Path, number: int) -> None:
    weight_type = TYPES[number % len(TYPES)]
    model = write_model(tmp_path / "model.gguf", ARCHITECTURES[number], weight_type=weight_type)
    assert_predicted(model, n_ctx=512)
    assert_predicted(model, n_ctx=300, n_batch=64, n_ubatch=32)


@pytest.mark.parametrize("weight_type", TYPES, ids=lambda weight_type: weight_type.name)
def test_every_quantization_holds_what_was_predicted(
    vocabularies: Path, tmp_path: Path, weight_type: TensorType
) -> None:
    model = write_model(tmp_path / "model.gguf", "qwen3", weight_type=weight_type)
    assert_predicted(model, n_ctx=1024)
    assert_predicted(model, n_ctx=1024, use_mmap=False)
    assert_predicted(model, n_ctx=1024, repack=False)


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "q8_0", "q4_0"])
def test_the_type_of_the_cache_counts(tiny_llama: Path, kv_type: str) -> None:
    assert_predicted(tiny_llama, n_ctx=4096, kv_type=kv_type)


def test_the_demo_model_holds_the_known_bytes(demo: Path) -> None:
    parts = by_category(predict_memory(demo, MemoryOptions(n_ctx=512)).forecast.parts)
    repack = parts.pop("repack", 0)  # on CPUs whose kernels want another layout
    assert parts == {"weights": 96_576_768, "kv": 11_796_480, "compute": 14_692_384, "output": 196_608}
    assert repack >= 0


def test_no_weight_is_read(tiny_llama: Path, tmp_path: Path) -> None:
    # GIVEN a file of the same length whose data is a hole
    header = gguf.GGUFReader(tiny_llama).data_offset
    hollow = tmp_path / "hollow.gguf"
    hollow.write_bytes(tiny_llama.read_bytes()[:header])
    os.truncate(hollow, tiny_llama.stat().st_size)
    # THEN the prediction is that of the model itself
    assert forecast_here(hollow).parts == forecast_here(tiny_llama).parts


def test_sizes_beyond_32_bits(vocabularies: Path, tmp_path: Path) -> None:
    dims = Dims(kv_heads=4, layers=4)
    model = write_model(tmp_path / "model.gguf", dims=dims)
    n_ctx = 1 << 21
    kv = by_category(predict_memory(model, MemoryOptions(n_ctx=n_ctx, kv_type="f32")).forecast.parts)["kv"]
    assert kv == 2 * 4 * dims.embd * dims.layers * n_ctx > 2**32


def test_what_cannot_be_predicted_says_why(tiny_llama: Path, vocabularies: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="a context of 2147483647 tokens needs at least"):
        predict_memory(tiny_llama, MemoryOptions(n_ctx=2**31 - 1))
    with pytest.raises(InvalidArgumentError, match='unknown kv_type "f17": choose one of f32, f16'):
        predict_memory(tiny_llama, MemoryOptions(kv_type="f17"))
    with pytest.raises(InvalidArgumentError, match="n_ubatch is 0"):
        predict_memory(tiny_llama, MemoryOptions(n_ubatch=0))
    with pytest.raises(ModelError, match="holds a vocabulary only"):
        predict_memory(vocabularies / "ggml-vocab-phi-3.gguf")
    with pytest.raises(ModelError):
        predict_memory(tmp_path / "none.gguf")


@pytest.mark.parametrize("key", ["feed_forward_length", "embedding_length", "block_count", "attention.head_count_kv"])
def test_absurd_sizes_are_an_error(tiny_llama: Path, tmp_path: Path, key: str) -> None:
    # GIVEN a header that claims a size of two thousand millions
    data = bytearray(tiny_llama.read_bytes())
    value = data.index(f"llama.{key}".encode()) + len(f"llama.{key}") + 4  # behind the value's type
    data[value : value + 4] = (2**31 - 1).to_bytes(4, "little")
    absurd = tmp_path / "absurd.gguf"
    absurd.write_bytes(data)
    # THEN that is said, by the child, in bounded time
    with pytest.raises(melt.MeltError):
        predict_memory(absurd)


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_is_the_device(tiny_llama: Path, tmp_path: Path, version: int) -> None:
    # GIVEN a container that may use 50 MB of 8 GB
    memory = tmp_path / ("sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory")
    files = {
        tmp_path / "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n",
        tmp_path / "proc/self/cgroup": "0::/\n" if version == 2 else "4:memory:/docker/abc\n",
        memory / ("memory.max" if version == 2 else "memory.limit_in_bytes"): "50000000\n",
        memory / ("memory.current" if version == 2 else "memory.usage_in_bytes"): "20000000\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    device = device_memory(tmp_path)
    # THEN that is what a model must fit into
    assert (device.total_bytes, device.available_bytes) == (50_000_000, 30_000_000)
    assert predict_memory(tiny_llama, MemoryOptions(n_ctx=1 << 17), device=device).fits is False


def test_an_unknown_memory_is_no_verdict(tiny_llama: Path, tmp_path: Path) -> None:
    device = device_memory(tmp_path)
    assert device.available_bytes is None
    assert "unknown" in device.source
    assert predict_memory(tiny_llama, device=device).fits is None


def test_inspect_prints_the_prediction(cli: Cli, tiny_llama: Path) -> None:
    done = cli("models", "inspect", tiny_llama, "--ctx", 512, "--kv-type", "q8_0")
    assert done.code == 0
    assert all(len(line) <= 80 for line in done.out.splitlines()[1:])
    assert "  fits: " in done.out
    memory = json.loads(cli("models", "inspect", tiny_llama, "--ctx", 512, "--json").out)["memory"]
    sizes = {row["category"]: row["bytes"] for row in memory["categories"]}
    assert memory["fits"] is True
    assert memory["total_bytes"] == sum(sizes.values())
    assert sizes["kv"] == 262_144
    # AND without an option nothing is predicted, AND bad use is one line
    assert "memory" not in json.loads(cli("models", "inspect", tiny_llama, "--json").out)
    refused = cli("models", "inspect", tiny_llama, "--kv-type", "x")
    assert refused.code == 2
    assert "choose one of f32" in refused.complaint


@pytest.fixture(scope="module")
def long_context(vocabularies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that says it was trained for a million tokens."""
    return write_model(tmp_path_factory.mktemp("models") / "long.gguf", dims=Dims(ctx_train=1 << 20))


def test_the_frontier_agrees_with_the_prediction(long_context: Path) -> None:
    # GIVEN a limit that allows some context
    others = set(psutil.Process().children(recursive=True))  # servers of other tests
    limit = predict_memory(long_context, MemoryOptions(n_ctx=100_000)).reserved_bytes
    # WHEN it is searched by real loads under that limit
    frontier = find_context(long_context, MemoryOptions(), limit_bytes=limit, max_seconds=TIMEOUT_S)
    # THEN both agree, AND what fails fails for want of memory
    assert frontier.predicted == pytest.approx(100_000, rel=0.01)
    assert frontier.agreement_ratio == pytest.approx(1.0, abs=0.1)
    assert frontier.failed is not None
    assert not frontier.stopped
    assert all(attempt.runs or "memory" in attempt.reason or "exit" in attempt.reason for attempt in frontier.attempts)
    assert not set(psutil.Process().children(recursive=True)) - others


def test_the_largest_batch(long_context: Path) -> None:
    options = MemoryOptions(n_ctx=8192)
    limit = predict_memory(long_context, MemoryOptions(n_ctx=8192, n_batch=4096, n_ubatch=4096)).reserved_bytes
    frontier = find_batch(long_context, options, limit_bytes=limit, max_seconds=TIMEOUT_S)
    assert frontier.agreement_ratio == pytest.approx(1.0, abs=0.1)
    assert frontier.predicted == pytest.approx(4096, abs=32)


def test_frontier_command(cli: Cli, long_context: Path) -> None:
    # A context that memory does not limit
    done = cli("memory", "--frontier", long_context, "--max-ctx", 1024, "--batch", "--json", "--max-seconds", TIMEOUT_S)
    assert done.code == 0
    value = json.loads(done.out)
    assert [row["quantity"] for row in value["frontiers"]] == ["n_ctx", "n_ubatch"]
    assert value["frontiers"][0]["found"] == 1024
    # a limit below the process itself
    nothing = cli("memory", "--frontier", long_context, "--limit-bytes", 50_000_000)
    assert nothing.code == 1
    assert "no n_ctx runs" in nothing.out
    assert all(len(line) <= 80 for line in nothing.out.splitlines()[1:])
    # bad use
    assert cli("memory").code == 2
    assert cli("memory", "--frontier", long_context, "--max-ctx", 10).code == 2
    assert cli("memory", "--frontier", long_context, "--limit-bytes", 0).code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_search_leaves_no_child(long_context: Path, number: signal.Signals) -> None:
    command = [str(MELT), "memory", "--frontier", str(long_context), "--limit-bytes", "2000000000"]
    search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # GIVEN a search with a child at work
    deadline = time.monotonic() + TIMEOUT_S
    while not (children := psutil.Process(search.pid).children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # WHEN it is ended
    time.sleep(0.3)
    children = psutil.Process(search.pid).children(recursive=True) or children
    search.send_signal(number)
    _, err = search.communicate(timeout=TIMEOUT_S)
    # THEN the child ends too
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    if number == signal.SIGINT:
        assert search.returncode == 130
        assert "Traceback" not in err
