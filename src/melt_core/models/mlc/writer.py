"""Writes a model directory's parameters: shards, and ``tensor-cache.json`` with their checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melt_core.models.mlc.files import CACHE_NAMES

SHARD_BYTES = 32 << 20


class ShardWriter:
    """Collects tensors into shards of about 32 MiB, as MLC does; a larger tensor has one of its own."""

    def __init__(self, folder: Path) -> None:
        """Writes into `folder`, which exists."""
        self._folder = folder
        self._shards: list[dict[str, Any]] = []
        self._pending: list[tuple[str, NDArray[Any]]] = []
        self._pending_bytes = 0
        self.n_tensors = 0
        self.n_bytes = 0

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Adds one tensor; its bytes are written when a shard is full."""
        if self._pending and self._pending_bytes + values.nbytes > SHARD_BYTES:
            self._flush()
        self._pending.append((name, values))
        self._pending_bytes += values.nbytes
        self.n_tensors += 1
        self.n_bytes += values.nbytes

    def finish(self, n_params: int) -> None:
        """Writes what is left and the list of all shards; `n_params` counts weights, for the bits of each."""
        self._flush()
        metadata = {
            "ParamSize": self.n_tensors,
            "ParamBytes": float(self.n_bytes),
            "BitsPerParam": self.n_bytes * 8 / n_params,
        }
        text = json.dumps({"metadata": metadata, "records": self._shards}, indent=1)
        (self._folder / CACHE_NAMES[0]).write_text(text, encoding="utf-8")

    def _flush(self) -> None:
        if not self._pending:
            return
        name = f"params_shard_{len(self._shards)}.bin"
        digest, offset, records = hashlib.md5(usedforsecurity=False), 0, []
        with (self._folder / name).open("wb") as stream:
            for tensor, values in self._pending:
                data = np.ascontiguousarray(values).tobytes()
                stream.write(data)
                digest.update(data)
                records.append(
                    {
                        "name": tensor,
                        "shape": list(values.shape),
                        "dtype": str(values.dtype),
                        "format": "raw",
                        "nbytes": len(data),
                        "byteOffset": offset,
                    }
                )
                offset += len(data)
        self._shards.append(
            {
                "dataPath": name,
                "format": "raw-shard",
                "nbytes": offset,
                "md5sum": digest.hexdigest(),
                "records": records,
            }
        )
        self._pending, self._pending_bytes = [], 0


def read_parameters(folder: Path) -> dict[str, NDArray[Any]]:
    """Returns the parameters of a directory by name, as they lie in the files (bfloat16 widened to float32)."""
    names = [folder / name for name in CACHE_NAMES]
    cache = json.loads(next(path for path in names if path.exists()).read_text(encoding="utf-8"))
    found: dict[str, NDArray[Any]] = {}
    for shard in cache["records"]:
        data = np.fromfile(folder / shard["dataPath"], np.uint8)
        for record in shard["records"]:
            raw = data[record["byteOffset"] : record["byteOffset"] + record["nbytes"]]
            if record["format"] == "f32-to-bf16":
                values: NDArray[Any] = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view(record["dtype"])
            found[record["name"]] = values.reshape(record["shape"])
    return found
