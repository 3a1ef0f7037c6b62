"""What the files of an MLC model directory are called."""

from __future__ import annotations

CONFIG_NAME = "mlc-chat-config.json"
#: The list of shards and parameters: as it is called now, and in older directories.
CACHE_NAMES = ("tensor-cache.json", "ndarray-cache.json")
