"""Writes ``tokenizer.json`` from a GGUF file's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melt_core.models.mlc.gguf_source import GgufSource


def write_tokenizer(source: GgufSource, folder: Path) -> list[str]:
    """Writes the tokenizer and returns its files."""
    return []
