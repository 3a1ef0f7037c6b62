"""What is wrong with a model directory, a library or TVM is said in one clear line, before memory is taken."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt
from fakes.needs import lacking
from melt_core.errors import InvalidArgumentError, MissingExtraError, ModelError, OutOfMemoryError

from .conftest import Outcome


def refused(folder: Path, kind: type[Exception] = ModelError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        melt.load(folder, runtime="mlc", **{"n_threads": 1, "n_ctx": 128, **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(path: Path, edit: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("key", ["model_type", "quantization", "vocab_size", "context_window_size"])
def test_a_key_that_the_configuration_lacks_is_named(mlc_copy: Path, key: str) -> None:
    edited(mlc_copy / "mlc-chat-config.json", lambda values: values.pop(key))
    assert f'lacks the key "{key}"' in refused(mlc_copy)


def test_a_missing_or_broken_configuration(mlc_copy: Path) -> None:
    config = mlc_copy / "mlc-chat-config.json"
    config.write_text("{")
    assert "mlc-chat-config.json: not JSON at byte 1" in refused(mlc_copy)
    config.write_text('{"model_type": 3}')
    assert '"model_type" is 3: give a string' in refused(mlc_copy)
    config.unlink()
    assert "cannot read" in refused(mlc_copy)
    assert "No such file" in refused(mlc_copy)


def test_no_directory(tmp_path: Path) -> None:
    assert "does not exist: the MLC runtime takes a directory" in refused(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file: the MLC runtime takes a directory" in refused(tmp_path / "file")


def test_no_tensor_cache(mlc_copy: Path) -> None:
    (mlc_copy / "tensor-cache.json").unlink()
    assert "tensor-cache.json: No such file" in refused(mlc_copy)


def test_a_truncated_shard(mlc_copy: Path) -> None:
    shard = mlc_copy / "params_shard_1.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"has {len(data) - 1} of its {len(data)} bytes: it is cut short" in refused(mlc_copy)
    shard.unlink()
    assert "cannot read the shard" in refused(mlc_copy)


def test_a_damaged_shard(mlc_copy: Path) -> None:
    shard = mlc_copy / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert "params_shard_0.bin is damaged: its MD5 is" in refused(mlc_copy)


def test_a_parameter_that_is_missing_or_does_not_fit(mlc_copy: Path) -> None:
    cache = mlc_copy / "tensor-cache.json"
    kept = cache.read_text()
    edited(cache, lambda values: values["records"][1]["records"].pop())
    assert "lacks the parameter model.norm.weight that its model library needs" in refused(mlc_copy)
    cache.write_text(kept)

    def reshape(values: Any) -> None:
        record = values["records"][0]["records"][0]
        record["shape"] = record["shape"][::-1]

    edited(cache, reshape)
    message = refused(mlc_copy)
    assert "the parameter model.embed_tokens.q_weight" in message
    assert "is uint32 8x320, its model library needs uint32 320x8" in message


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("dtype", "float8_e4m3", "has the type float8_e4m3: this quantisation is not supported"),
        ("format", "zstd", 'is stored in the format "zstd"'),
        ("byteOffset", 1 << 40, "ends at byte"),
        ("nbytes", 3, "has 3 bytes in params_shard_0.bin, its shape and type"),
        ("shape", [-1], "the shape of model.embed_tokens.q_weight is -1"),
        ("shape", [1 << 40, 1 << 40], "is larger than any memory"),
        ("name", 7, '"name" is 7: give a string'),
    ],
)
def test_records_that_cannot_be(mlc_copy: Path, field: str, value: Any, complaint: str) -> None:
    edited(mlc_copy / "tensor-cache.json", lambda values: values["records"][0]["records"][0].update({field: value}))
    assert complaint in refused(mlc_copy)


def test_a_shard_outside_the_directory(mlc_copy: Path) -> None:
    edited(mlc_copy / "tensor-cache.json", lambda values: values["records"][0].update(dataPath="../x.bin"))
    assert 'the shard "../x.bin" lies outside' in refused(mlc_copy)


def test_a_library_of_another_architecture_or_quantisation(mlc_copy: Path, mlc_plain: Path) -> None:
    message = refused(mlc_copy, model_lib=mlc_plain / "model.so")
    assert "is compiled for the quantisation q0f32" in message
    edited(mlc_copy / "mlc-chat-config.json", lambda values: values.update(model_type="gpt_neox"))
    assert "the model library is of the architecture llama" in refused(mlc_copy)


def test_a_model_without_a_kv_cache(mlc_copy: Path) -> None:
    library = mlc_copy / "model.so"
    data = library.read_bytes()
    assert data.count(b'"kv_state_kind": "kv_cache"') == 1
    library.write_bytes(data.replace(b'"kv_state_kind": "kv_cache"', b'"kv_state_kind": "rnnstate"'))
    assert "keeps its state as rnnstate (architecture llama): only models with a KV cache" in refused(mlc_copy)


def test_a_library_for_another_processor(mlc_copy: Path) -> None:
    library = mlc_copy / "model.so"
    data = bytearray(library.read_bytes())
    mine = "x86_64" if data[18] == 62 else "aarch64"
    data[18:20] = (183 if mine == "x86_64" else 62).to_bytes(2, "little")
    library.write_bytes(data)
    other = "aarch64" if mine == "x86_64" else "x86_64"
    assert f"holds no model library for this machine, which is {mine}, but model.so for {other}" in refused(mlc_copy)
    assert f"is for {other}, this machine is {mine}" in refused(mlc_copy, model_lib=library)


def test_a_library_for_a_processor_with_more(mlc_copy: Path) -> None:
    library = mlc_copy / "model.so"
    data = library.read_bytes()
    (needed,) = re.findall(rb'"cpu_features": \[([^]]*)\]', data)
    if not needed:
        pytest.skip("libraries for this machine need nothing that not every processor of its kind has")
    library.write_bytes(data.replace(needed, b'"neon9"'.ljust(len(needed))))
    message = refused(mlc_copy)
    assert "was compiled for a processor with neon9, which this one lacks: convert the model on this machine" in message


def test_no_library_or_several(mlc_copy: Path) -> None:
    shutil.copyfile(mlc_copy / "model.so", mlc_copy / "other.so")
    assert "holds several model libraries: name one (model_lib): model.so" in refused(mlc_copy)
    for name in ("model.so", "other.so"):
        (mlc_copy / name).unlink()
    assert "holds no model library (*.so): compile the model" in refused(mlc_copy)
    (mlc_copy / "model.so").write_text("not a library at all")
    assert "is no shared library (ELF or Mach-O)" in refused(mlc_copy)


def test_a_library_that_is_cut_short(mlc_copy: Path) -> None:
    library = mlc_copy / "model.so"
    data = library.read_bytes()
    for size in (10, 100, 5000, len(data) // 2, len(data) - 1):  # mapped by the loader, they would end the process
        library.write_bytes(data[:size])
        assert "cut short" in refused(mlc_copy)


def test_a_library_for_a_gpu(mlc_copy: Path, mlc_compiled: Callable[[str], Path]) -> None:
    shutil.copyfile(mlc_compiled("opencl") / "gpu.so", mlc_copy / "model.so")
    message = refused(mlc_copy)
    assert "on the CPU (a library for a GPU" in message
    assert "opencl" in message


def test_a_cache_beyond_all_memory(mlc_copy: Path) -> None:
    assert "GB are available: a shorter n_ctx" in refused(mlc_copy, OutOfMemoryError, n_ctx=2**31 - 1)


def test_more_threads_than_tvm_made_room_for(mlc_packed: Path) -> None:
    with melt.load(mlc_packed, runtime="mlc", n_threads=1, n_ctx=64):
        pass
    with pytest.raises(InvalidArgumentError, match=r"TVM computes with .* threads, not 500"):
        melt.load(mlc_packed, runtime="mlc", n_threads=500, n_ctx=64)


def test_tvm_that_is_not_installed(mlc_packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for an environment without it: what Python would find there is nothing.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'melt_core\[mlc\]'"):
        melt.load(mlc_packed, runtime="mlc")


def test_a_path_without_tvm(
    mlc_packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_process: Callable[..., Outcome]
) -> None:
    monkeypatch.setenv("MELT_TVM_PATH", str(tmp_path))
    done = cli_process("profile", mlc_packed, "--runtime", "mlc")
    assert done.code == 2
    assert f"no libtvm_ffi.so in {tmp_path}: install apache-tvm" in done.complaint


def test_a_tvm_of_another_version(
    mlc_packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_process: Callable[..., Outcome]
) -> None:
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        lacking("no C compiler for a library of another version")
    # A stand-in for a release that is not there yet: the functions, and a version that the header does not know.
    names = ("FunctionGetGlobal", "FunctionSetGlobal", "FunctionCreate", "ObjectIncRef", "ObjectDecRef",
             "StringFromByteArray", "TensorFromDLPack", "ErrorMoveFromRaised", "ErrorSetRaisedFromCStr")  # fmt: skip
    source = tmp_path / "later.c"
    source.write_text(
        "void TVMFFIGetVersion(unsigned* v) { v[0] = 0; v[1] = 9; v[2] = 1; }\n"
        + "".join(f"int TVMFFI{name}(void) {{ return 1; }}\n" for name in names)
    )
    library = tmp_path / "libtvm_ffi.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    monkeypatch.setenv("MELT_TVM_PATH", str(tmp_path))
    done = cli_process("profile", mlc_packed, "--runtime", "mlc")
    assert "libtvm_ffi is version 0.9.1, and this build knows 0.1: install apache-tvm-ffi 0.1.*" in done.complaint

    library.unlink()
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", str(library), "/dev/null"], check=True, timeout=60)
    done = cli_process("profile", mlc_packed, "--runtime", "mlc")
    assert "libtvm_ffi lacks TVMFFIGetVersion" in done.complaint
