"""``python -m melt_core.models.mlc.compiler LIBRARY < request.json``: compiles in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from melt_core.models.mlc.compiler.library import compile_library
from melt_core.models.mlc.config import ModelConfig
from melt_core.models.mlc.quantization import quantization_of
from melt_core.models.mlc.targets import machine_of


def main() -> int:
    """Compiles what standard input describes. Returns the exit code."""
    request = json.load(sys.stdin)
    config, quantization = ModelConfig(**request["config"]), quantization_of(request["quantization"])
    compile_library(Path(sys.argv[1]), config, quantization, machine_of(request["target"], request.get("linker", "")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
