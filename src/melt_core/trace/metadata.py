"""Metadata of a trace: JSON objects of unknown origin, made safe to use. Every key may be absent or of another type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 32
MAX_CHUNK_BYTES = 64 << 20


def parse(payload: bytes) -> dict[str, Any]:
    """Returns the JSON object in one metadata chunk, without NaN, infinities, lone surrogates or endless nesting.

    Raises:
        ValueError: if it is no such object.
    """
    try:
        value = _clean(json.loads(payload.decode("utf-8"), parse_constant=lambda _: None), 0)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def merge(metadata: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Adds or replaces the keys of ``later``; lists under "warnings" are joined."""
    for key, value in later.items():
        if key == "warnings":
            texts = value if isinstance(value, list) else [value]
            metadata.setdefault("warnings", []).extend(text if isinstance(text, str) else str(text) for text in texts)
        else:
            metadata[key] = value


def text(metadata: Mapping[str, Any], *keys: str) -> str | None:
    """Returns the text or number under nested ``keys`` as text; None where there is none."""
    value = _at(metadata, keys)
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def number(metadata: Mapping[str, Any], *keys: str) -> float | None:
    """Returns the number under nested ``keys``; None where there is none."""
    value = _at(metadata, keys)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _at(metadata: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = metadata
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _clean(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_clean(key, depth): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
