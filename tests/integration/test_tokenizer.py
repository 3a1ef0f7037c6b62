"""Text to token ids, against the golden files of llama.cpp's own test (tests/test-tokenizer-0.cpp)."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.needs import lacking
from fakes.tiny_models import vocabulary_folder
from melt_core.errors import InvalidArgumentError, ModelError
from melt_core.runtime.tokenizer import load_tokenizer

FOLDER = vocabulary_folder()
NAMES = sorted(path.name.removesuffix(".inp") for path in FOLDER.glob("ggml-vocab-*.gguf.inp")) if FOLDER else []
SEPARATOR = "\n__ggml_vocab_test__\n"


def golden(vocabulary: Path) -> list[tuple[str, list[int]]]:
    """Returns texts and their ids, read as upstream reads them: one text between two separators, one line of ids."""
    texts = vocabulary.with_name(vocabulary.name + ".inp").read_bytes().decode().split(SEPARATOR)
    lines = vocabulary.with_name(vocabulary.name + ".out").read_text().splitlines()
    if texts[-1] == "":
        texts.pop()  # upstream's loop stops at the end of the file
    assert len(texts) == len(lines)
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=True)]


def test_there_are_vocabularies_with_golden_ids() -> None:
    if FOLDER is None:  # then pytest has no name for the next test, and skips it even in CI
        lacking("no prepared llama.cpp source tree: run `make setup`")
    assert len(NAMES) >= 10, f"{FOLDER} has not the golden files that the next test reads"


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_the_golden_ones(vocabularies: Path, name: str) -> None:
    tokenizer = load_tokenizer(vocabularies / name)
    wrong = []
    for text, expected in golden(vocabularies / name):
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        if ids != expected:
            wrong.append((text, ids, expected))
    assert wrong == []


# Byte-level vocabularies that change nothing before they split.
@pytest.mark.parametrize("name", ["gpt-2", "starcoder", "qwen2", "falcon"])
def test_text_survives_the_way_there_and_back(vocabularies: Path, name: str) -> None:
    tokenizer = load_tokenizer(vocabularies / f"ggml-vocab-{name}.gguf")
    for text in ("Hello, world!", "  two  spaces\n\ttab", "größer 🦙 កាន់", ""):
        assert tokenizer.decode(tokenizer.encode(text, add_special=False, parse_special=False)) == text


def test_part_of_a_character_becomes_the_replacement_character(vocabularies: Path) -> None:
    tokenizer = load_tokenizer(vocabularies / "ggml-vocab-gpt-2.gguf")
    first, *rest = tokenizer.encode("🦙", add_special=False, parse_special=False)
    assert rest, "this emoji must take several tokens for the test to mean something"
    assert tokenizer.decode([first]) == "\ufffd"


def test_special_tokens_are_read_only_on_request(vocabularies: Path) -> None:
    tokenizer = load_tokenizer(vocabularies / "ggml-vocab-qwen2.gguf")
    text = "<|im_start|>"
    assert len(tokenizer.encode(text, add_special=False, parse_special=True)) == 1
    assert len(tokenizer.encode(text, add_special=False, parse_special=False)) > 1


def test_special_tokens_are_added_on_request(vocabularies: Path) -> None:
    tokenizer = load_tokenizer(vocabularies / "ggml-vocab-llama-spm.gguf")
    plain = tokenizer.encode("Hello", add_special=False, parse_special=False)
    assert tokenizer.encode("Hello", add_special=True, parse_special=False) == [1, *plain]


@pytest.mark.parametrize("token", [-1, 50257, 2**31 - 1])
def test_ids_outside_the_vocabulary_are_refused(vocabularies: Path, token: int) -> None:
    tokenizer = load_tokenizer(vocabularies / "ggml-vocab-gpt-2.gguf")
    with pytest.raises(InvalidArgumentError, match=str(token)):
        tokenizer.decode([token])


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load_tokenizer(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError):
        load_tokenizer(tmp_path / "text.gguf")
