"""`melt models convert`: what comes out computes what went in, is whole or not there, and says what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import melt_core as melt
from fakes.mlc_model import write_source
from fakes.tiny_models import TensorType, write_model
from melt_core.errors import InvalidArgumentError, MissingExtraError, ModelError, StorageError
from melt_core.models.mlc.convert import convert
from melt_core.models.mlc.gguf_header import GgufHeader
from melt_core.models.mlc.gguf_tokenizer import write_tokenizer
from melt_core.models.mlc.open import open_source
from melt_core.models.mlc.packing import dequantize, half_steps, quantize
from melt_core.models.mlc.quantization import quantization_of
from melt_core.models.mlc.reference import Reference
from melt_core.models.mlc.targets import machine_of, x86_machine
from melt_core.models.mlc.verify import reference_of, verify_shards, verify_values

from .conftest import MELT, Outcome

PROMPT = [5, 77, 130, 9, 250, 31, 8]

pytestmark = pytest.mark.usefixtures("mlc_packages")


def greedy(model: Path, runtime: str, n: int = 16) -> tuple[int, ...]:
    with melt.load(model, runtime=runtime, n_threads=1, n_ctx=64) as llm, melt.profile(llm, levels=("tokens",)) as prof:
        return prof.run(PROMPT, max_tokens=n, ignore_eos=True, warmup=0, overhead_budget_s=0).token_ids


# What comes out


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_gguf_file_gives_the_tokens_of_llama_cpp(architecture: str, vocabularies: Path, tmp_path: Path) -> None:
    # GIVEN a model whose K and V have fewer heads, and whose rows llama.cpp keeps in an order of its own
    source = write_model(tmp_path / "tiny.gguf", architecture, weight_type=TensorType.F32, spread=0.15)
    # WHEN it is converted without loss
    done = convert(source, tmp_path / "model", quantization="q0f32")
    # THEN both runtimes say the same
    assert greedy(tmp_path / "model", "mlc") == greedy(source, "llama.cpp")
    assert done.verification.weights_error == 0


@pytest.mark.parametrize("vocabulary", ["qwen2", "llama-spm"])
def test_text_is_split_as_llama_cpp_splits_it(vocabulary: str, vocabularies: Path, tmp_path: Path) -> None:
    source = vocabularies / f"ggml-vocab-{vocabulary}.gguf"
    write_tokenizer(GgufHeader(source), tmp_path)
    ours, theirs = melt.load_tokenizer(tmp_path, runtime="mlc"), melt.load_tokenizer(source)
    for text in ("Hello  world, 12345 é!\n\n  it's I'M \tx", " 你好 🙂", "a_b=3.14;\r\n   ", ""):
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text, add_special=False)) == text


@pytest.mark.parametrize(
    ("architecture", "quantization", "dtype", "config"),
    [
        ("qwen2", "q4f16_1", "BF16", {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96}),
        ("gemma", "q3f16_1", "F32", {"head_dim": 32, "num_key_value_heads": 1}),
        ("mistral", "q0f16", "F16", {"tie_word_embeddings": False, "sliding_window": 64, "vocab_size": 321}),
        (
            "llama",
            "q4f32_1",
            "F32",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 32}},
        ),
    ],
)  # fmt: skip
def test_directories_of_hugging_face(
    architecture: str, quantization: str, dtype: str, config: dict[str, Any], tmp_path: Path
) -> None:
    source = write_source(tmp_path / "source", architecture, dtype=dtype, **config)
    done = convert(source, tmp_path / "model", quantization=quantization)
    check = done.verification  # convert has compared with NumPy
    assert check.kernels_error is not None
    assert check.kernels_error <= check.bounds.kernels
    assert 0 <= check.weights_error <= check.bounds.weights
    values = json.loads((tmp_path / "model" / "mlc-chat-config.json").read_text())
    assert (values["model_type"], values["quantization"]) == (architecture, quantization)
    assert values["context_window_size"] == config.get("sliding_window", 512)
    assert (tmp_path / "model" / "tensor-cache.json").exists()
    assert len(greedy(tmp_path / "model", "mlc")) == 16


def test_the_reference_knows_each_family(tmp_path: Path) -> None:
    # Each family differs from llama where it should: else the comparisons above would prove little.
    ids = list(range(5, 25))
    logits = {}
    for architecture in ("llama", "qwen2", "gemma"):
        source = open_source(write_source(tmp_path / architecture, architecture), 64)
        logits[architecture] = Reference(source.config, source.parameter).evaluate(ids)
    assert np.abs(logits["llama"] - logits["qwen2"]).max() > 0.1
    assert np.abs(logits["llama"] - logits["gemma"]).max() > 0.1
    # Gemma's norms are stored without the 1 that is added to them.
    assert source.parameter("model.norm.weight").mean() == pytest.approx(1, abs=0.1)
    assert source.tensor("model.norm.weight").mean() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("name", "levels"), [("q4f32_1", 15), ("q3f16_1", 7)])
def test_group_quantisation_is_that_of_mlc(name: str, levels: int) -> None:
    q = quantization_of(name)
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((6, 100)).astype(np.float32)  # the last group is part empty
    weight[2, : q.group] = 0
    words, scales = quantize(weight, q)
    assert words.shape == (6, q.n_words(100))
    assert scales.dtype == q.dtype
    found = dequantize(words, scales, 100, q)
    assert not found[2, : q.group].any()
    step = np.repeat(scales.astype(np.float32), q.group, axis=1)[:, :100]
    assert (np.abs(found - weight) <= step * 0.51 + 1e-3).all()
    # The first weight of a row lies in the lowest bits, offset by max_int.
    first = np.rint(weight[0, 0] / float(scales[0, 0])) + q.max_int
    assert words[0, 0] & ((1 << q.bits) - 1) == first
    assert len(np.unique(np.rint(found / np.where(step > 0, step, 1)))) <= levels


@pytest.mark.parametrize("name", ["q4f32_1", "q4f16_1", "q3f16_1"])
def test_values_are_the_nearest_that_can_be_written(name: str) -> None:
    # Of all sizes, down to those that float16 hardly has, and with some that stand out.
    q, draw = quantization_of(name), np.random.default_rng(1)
    weight = (draw.standard_t(1.5, (40, 100)) * np.logspace(-9, 1, 40)[:, None]).astype(np.float32)
    steps = half_steps(weight, q, packed=True)
    words, scales = quantize(weight, q)
    assert (np.abs(dequantize(words, scales, 100, q) - weight) <= 1.02 * steps).all()
    words[30:] += 1  # the first of each ten or eight: one level up
    assert (np.abs(dequantize(words, scales, 100, q) - weight) > 1.02 * steps).any()


def test_an_archive_for_an_app(tmp_path: Path) -> None:
    done = convert(write_source(tmp_path / "s"), tmp_path / "m", quantization="q4f16_1", target="arm64-apple-ios")
    assert (tmp_path / "m" / "model.tar").stat().st_size == done.library_bytes > 10_000
    assert done.verification.reason == "compiled for arm64-apple-ios: cannot run here"
    assert done.verification.kernels_error is None


def test_the_command_says_what_it_checked(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    command = ("models", "convert", write_source(tmp_path / "source"), "--runtime", "mlc", "--quant", "q4f16_1")
    done = cli(*command, "--target", "aarch64-linux-android", "-o", tmp_path / "m", "--json")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values["n_params"] == 64 * (320 + 5) + 2 * 64 * (128 + 64 + 192 + 96)
    assert 0 < values["verification"]["weights_error"] < values["verification"]["bounds"]["weights"]
    assert values["bits_per_weight"] == pytest.approx(4.5, abs=0.1)


def test_inspect_predicts_memory(mlc_packed: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    done = cli("models", "inspect", mlc_packed, "--ctx", 256, "--json")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    sizes = {row["category"]: row["bytes"] for row in values["memory"]["categories"]}
    with melt.load(mlc_packed, runtime="mlc", n_threads=1, n_ctx=256) as llm:
        held = {part.category: part.bytes for part in llm.info.memory}
    assert (sizes["weights"], sizes["kv"]) == (held["weights"], held["kv"])
    assert sizes["compute"] > 0
    assert values["n_tensors"] == 2 * (1 + 4 * 2) + 2 * 2 + 1
    assert "llama, q4f32_1, for the MLC runtime" in cli("models", "inspect", mlc_packed).out
    assert "does not exist" in cli("models", "inspect", tmp_path).err


# Checked


def test_a_model_of_other_weights_is_found_out(mlc_plain: Path, tmp_path: Path) -> None:
    other = open_source(write_source(tmp_path / "other", seed=7), 64)
    with pytest.raises(
        ModelError, match=r"its weights are off by inf half steps .* against the source's, allowed is 0"
    ):
        verify_values(mlc_plain, other, quantization_of("q0f32"), machine_of("host"))


def test_one_weight_of_another_level_is_found_out(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source")
    convert(folder, tmp_path / "model", quantization="q4f16_1")
    source = open_source(folder, 64)
    verify = partial(verify_values, tmp_path / "model", source, quantization_of("q4f16_1"), machine_of("host"))
    assert 0.9 < verify().weights_error <= 1.02
    values = source.parameter

    def changed(name: str) -> Any:
        found = values(name).copy()
        if name == "model.layers.1.mlp.down_proj.weight":
            found[3, 5] += np.abs(found[3, :32]).max() / 7
        return found

    source.parameter = changed  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"its weights are off by [12]\.\d+ half steps of their format"):
        verify()


def test_a_library_that_computes_something_else_is_found_out(mlc_plain: Path, tmp_path: Path) -> None:
    other = open_source(write_source(tmp_path / "other", rope_theta=100.0), 64)  # the same weights, turned faster
    with pytest.raises(ModelError, match=r"its logits are off by .* against NumPy with the same weights"):
        verify_values(mlc_plain, other, quantization_of("q0f32"), machine_of("host"))


def test_a_damaged_shard_is_found_out(mlc_copy: Path) -> None:
    verify_shards(mlc_copy)
    shard = mlc_copy / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ModelError, match=r"params_shard_0.bin does not read back as it was written"):
        verify_shards(mlc_copy)


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    output = tmp_path / "made"
    output.mkdir()
    command = [str(MELT), "models", "convert", str(source), "--runtime", "mlc", "--quant", "q4f16_1", "-o"]
    process = subprocess.Popen([*command, str(output / "model")], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(output.glob(".model.partial-*/tensor-cache.json")):  # weights written, the compiler at work
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "melt: error: interrupted\n"
    assert list(output.iterdir()) == []


# Bad input


def refused(source: Path, folder: Path, kind: type[Exception] = ModelError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        convert(source, folder, **{"quantization": "q0f32", **options})
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")]
    return str(caught.value)


def test_architectures_that_cannot_be_converted(vocabularies: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", "gemma2")
    assert "is of the architecture gemma2: only llama, mistral, qwen2, gemma" in refused(source, tmp_path / "o")
    folder = write_source(tmp_path / "gpt", "gpt_neox")
    assert "is of the architecture gpt_neox" in refused(folder, tmp_path / "o")
    moe = write_model(tmp_path / "moe.gguf", "llama+moe")
    assert "has experts" in refused(moe, tmp_path / "o")


def test_what_is_no_model(tmp_path: Path) -> None:
    assert "does not exist: name a GGUF file" in refused(tmp_path / "none", tmp_path / "o")
    (tmp_path / "text").write_text("not a model")
    assert "is no GGUF file" in refused(tmp_path / "text", tmp_path / "o")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    assert "cannot be read as GGUF" in refused(tmp_path / "cut.gguf", tmp_path / "o")
    (tmp_path / "empty").mkdir()
    assert "holds no *.safetensors" in refused(tmp_path / "empty", tmp_path / "o")


def test_names_that_are_none(tmp_path: Path, cli_process: Callable[..., Outcome]) -> None:
    source = write_source(tmp_path / "source")
    assert "there is no quantization 'q5'" in refused(source, tmp_path / "o", InvalidArgumentError, quantization="q5")
    assert "there is no target 'z80'" in refused(source, tmp_path / "o", InvalidArgumentError, target="z80")
    done = cli_process("models", "convert", source, "--runtime", "mlc", "--quant", "q5", "-o", tmp_path / "o")
    assert done.code == 2
    assert "q4f16_1" in done.complaint


def test_safetensors_that_do_not_fit(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    path, config = source / "model.safetensors", source / "config.json"
    kept, sizes = path.read_bytes(), json.loads(config.read_text())
    path.write_bytes(kept[:-10])
    assert "is cut short: the tensor" in refused(source, tmp_path / "o")
    path.write_bytes(b"\xff" * 16)
    assert "is damaged: its header of" in refused(source, tmp_path / "o")
    path.write_bytes(kept)
    config.write_text(json.dumps(sizes | {"intermediate_size": 128}))
    assert "has the shape 192x64, the model's sizes say 256x64" in refused(source, tmp_path / "o")
    config.write_text(json.dumps(sizes | {"num_hidden_layers": 3}))
    assert "lacks the tensor model.layers.2" in refused(source, tmp_path / "o")
    config.write_text(json.dumps({k: v for k, v in sizes.items() if k != "rms_norm_eps"}))
    assert "lacks the key rms_norm_eps" in refused(source, tmp_path / "o")
    config.write_text(json.dumps(sizes | {"rope_scaling": {"type": "yarn", "factor": 4}}))
    assert "stretches its positions by yarn" in refused(source, tmp_path / "o")
    config.write_text(json.dumps(sizes | {"num_attention_heads": 5, "head_dim": 16}))
    assert "5 heads of 16 values, and 2 of K and V cannot be" in refused(source, tmp_path / "o")
    config.write_text("{")
    assert "is not JSON" in refused(source, tmp_path / "o")


def test_a_directory_that_is_there_is_kept(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    assert "exists already" in refused(source, tmp_path / "there", InvalidArgumentError)
    assert (tmp_path / "there" / "mine").read_text() == "x"


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "source")
    with pytest.raises(StorageError, match="cannot write"):
        convert(source, tmp_path / "source" / "config.json" / "model", quantization="q0f32")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert "MB are needed and 0 MB are free" in refused(source, tmp_path / "o", StorageError)


def test_tools_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "source")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        message = refused(source, tmp_path / "o", InvalidArgumentError, target="aarch64-linux-gnu")
        assert "there is no aarch64-linux-gnu-g++ here" in message
        assert "no compiler here to link" in refused(source, tmp_path / "o", InvalidArgumentError)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'melt_core[mlc]'" in refused(source, tmp_path / "o", MissingExtraError)


def test_processors_get_what_they_have() -> None:
    four = {
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "movbe",
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
    }
    amx = x86_machine("x86_64-linux-gnu", four | {"avx512_vnni", "amx_tile", "amx_bf16", "avx512_bf16"})
    assert (amx.lanes, amx.vnni, amx.amx) == (16, True, True)
    assert not x86_machine("x86_64-apple-darwin", four | {"amx_tile", "amx_bf16", "avx512_bf16"}).amx
    plain = x86_machine("x86_64-linux-gnu", four)
    assert (plain.cpu, plain.vnni, plain.features) == ("x86-64-v4", False, ())
    # AND what a library's metadata says that its processor must have is what was there
    assert {"bmi", "avx512vl", "avx512vnni", "amx-bf16"} < set(amx.needs)
    assert len(plain.needs) == len(four)
    assert x86_machine("x86_64-linux-gnu", four - {"avx512vl"}).cpu == "x86-64-v3"
    least = x86_machine("x86_64-linux-gnu", set())
    assert (least.lanes, least.needs) == (4, ())


def test_the_directory_of_a_conversion_is_the_reference(mlc_plain: Path) -> None:
    tokens, _ = reference_of(mlc_plain).greedy(PROMPT, 8)
    assert greedy(mlc_plain, "mlc", 8) == tuple(tokens)
