"""Models that tests share. This folder is importable: pytest puts it on the path, so `from fakes import ...` works."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fakes.needs import lacking
from fakes.tiny_models import vocabulary_folder, write_model
from melt_core.errors import ModelError
from melt_core.models import model_path

# A shell lets what runs in the background, or under nohup, ignore these, and so would all that tests start and signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """The folder of llama.cpp's vocabularies."""
    folder = vocabulary_folder()
    if folder is None:
        lacking("no prepared llama.cpp source tree with models/ggml-vocab-*.gguf: run `make setup`")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(vocabularies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model of 1 MB. Its context is 512 tokens, its vocabulary 2048."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-llama.gguf")


@pytest.fixture(scope="session")
def demo() -> Path:
    """SmolLM2-135M-Instruct, Q4_1 with the embedding in Q8_0; fetched once."""
    try:
        return model_path("demo")
    except ModelError as error:
        lacking(str(error))
