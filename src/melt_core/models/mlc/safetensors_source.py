"""Directories of Hugging Face as the source of a conversion: ``config.json`` and ``*.safetensors``.

A safetensors file: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, data_offsets), the data.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from melt_core.errors import ModelError, StorageError
from melt_core.models.mlc.chat import conversation_template
from melt_core.models.mlc.config import ARCHITECTURES, ModelConfig
from melt_core.models.mlc.source import Chat, FloatArray, Part, Source

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_HEADER_LIMIT = 100 << 20
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt")


class SafetensorsSource(Source):
    """A directory. Tensors are read when they are asked for."""

    def __init__(self, path: Path, prefill_chunk_size: int) -> None:
        """Reads the configuration and the headers.

        Raises:
            ModelError: A file is missing or damaged, or the architecture cannot be converted.
        """
        self._places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{path} holds no *.safetensors")
        values = _read_json(path / "config.json")
        for file in files:
            self._read_header(file)
        generation = path / "generation_config.json"
        stops = _ids(_read_json(generation).get("eos_token_id") if generation.exists() else None)
        stops = stops or _ids(values.get("eos_token_id"))
        super().__init__(path, self._read_config(path, values, prefill_chunk_size), _chat(path, values, stops))

    def _read_header(self, file: Path) -> None:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ModelError(f"{file} is damaged: its header of {length} bytes does not fit into it")
            try:
                header: dict[str, Any] = json.loads(stream.read(length))
                header.pop("__metadata__", None)
                for name, place in header.items():
                    begin, end = (int(offset) for offset in place["data_offsets"])
                    if not 0 <= begin <= end <= size - 8 - length:
                        raise ModelError(f"{file} is cut short: the tensor {name} ends at byte {end} of its data")
                    self._places[name] = (file, 8 + length + begin, place)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{file} is damaged: its header cannot be read ({error!r})") from error

    def _read_config(self, path: Path, values: dict[str, Any], prefill_chunk_size: int) -> ModelConfig:
        architecture = values.get("model_type")
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ModelError(f"{path} is of the architecture {architecture}: only {known} can be converted for MLC")

        def needed(*names: str) -> Any:
            for name in names:
                if values.get(name) is not None:
                    return values[name]
            raise ModelError(f"{path / 'config.json'} lacks the key {names[0]}")

        n_heads, size = int(needed("num_attention_heads")), int(needed("hidden_size"))
        context = int(needed("max_position_embeddings"))
        if values.get("sliding_window") and values.get("use_sliding_window", architecture == "mistral"):
            context = min(context, int(values["sliding_window"]))  # within the window, attention is whole
        return ModelConfig(
            model_type=architecture,
            hidden_size=size,
            intermediate_size=int(needed("intermediate_size")),
            num_hidden_layers=int(needed("num_hidden_layers")),
            num_attention_heads=n_heads,
            num_key_value_heads=int(values.get("num_key_value_heads") or n_heads),
            head_dim=int(values.get("head_dim") or size // n_heads),
            vocab_size=int(needed("vocab_size")),
            rms_norm_eps=float(needed("rms_norm_eps")),
            position_embedding_base=float(values.get("rope_theta") or _rope(values).get("rope_theta") or 10000.0),
            context_window_size=context,
            tie_word_embeddings="lm_head.weight" not in self._places or bool(values.get("tie_word_embeddings")),
            prefill_chunk_size=min(prefill_chunk_size, context),
            rope_scaling=_rope_scaling(path, values),
        )

    def tensor(self, name: str) -> FloatArray:
        """See the base class."""
        if name not in self._places:
            raise ModelError(f"{self.path} lacks the tensor {name}")
        file, offset, place = self._places[name]
        dtype = place.get("dtype")
        if dtype not in _DTYPES:
            raise ModelError(f"{file}: the tensor {name} is of the type {dtype}: only {', '.join(_DTYPES)} can be read")
        begin, end = place["data_offsets"]
        count = int(np.prod(place["shape"], dtype=np.int64))
        if count * np.dtype(_DTYPES[dtype]).itemsize != end - begin:
            raise ModelError(f"{file}: the tensor {name} has {end - begin} bytes, its shape and type say otherwise")
        try:
            raw = np.fromfile(file, _DTYPES[dtype], count, offset=offset)
        except OSError as error:
            raise StorageError.from_os_error("read", str(file), error) from error
        if dtype == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        values: FloatArray = raw.astype(np.float32).reshape(place["shape"])
        return values

    def part_of(self, name: str) -> Part:
        """See the base class."""
        fused = {f"self_attn.{self.config.qkv_name}.": "qkv", "mlp.gate_up_proj.": ("gate", "up")}
        for part, pieces in fused.items():
            if part in name:
                group = part.partition(".")[0]
                return Part(tuple(name.replace(part, f"{group}.{piece}_proj.") for piece in pieces))
        return Part((name,))

    def adjusted(self, name: str, values: FloatArray) -> FloatArray:
        """See the base class. Gemma's norms are stored without the 1 that is added to them; MLC keeps the sum."""
        return values + np.float32(1) if self.config.model_type == "gemma" and "norm" in name else values

    def write_tokenizer(self, folder: Path) -> list[str]:
        """See the base class."""
        found = [name for name in _TOKENIZER_FILES if (self.path / name).is_file()]
        for name in found:
            shutil.copyfile(self.path / name, folder / name)
        return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist: the model's sizes stand in it") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object")
    return values


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else () if value is None else (int(value),)


def _chat(path: Path, values: dict[str, Any], stops: tuple[int, ...]) -> Chat:
    tokenizer = path / "tokenizer_config.json"
    jinja = _read_json(tokenizer).get("chat_template") if tokenizer.exists() else None
    separate = path / "chat_template.jinja"
    if separate.exists():
        jinja = separate.read_text(encoding="utf-8")
    bos = _ids(values.get("bos_token_id"))
    template = conversation_template(jinja if isinstance(jinja, str) else None, stops)
    return Chat(bos=bos[0] if bos else None, eos=stops, template=template)


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """Returns how positions are turned into angles; newer configurations keep the base there too."""
    return values.get("rope_scaling") or values.get("rope_parameters") or {}


def _rope_scaling(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    scaling = _rope(values)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return {}
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kind != "llama3" or any(name not in scaling for name in names):
        raise ModelError(f"{path} stretches its positions by {kind}: only llama3's way can be converted for MLC")
    return {name: scaling[name] for name in names}
