"""MLC model directories, made from GGUF files and from directories of Hugging Face."""

from __future__ import annotations

from melt_core.models.mlc.convert import Conversion, convert
from melt_core.models.mlc.directory import MlcDirectory, describe
from melt_core.models.mlc.quantization import QUANTIZATIONS
from melt_core.models.mlc.targets import TARGETS
from melt_core.models.mlc.verify import Verification

__all__ = ["QUANTIZATIONS", "TARGETS", "Conversion", "MlcDirectory", "Verification", "convert", "describe"]
