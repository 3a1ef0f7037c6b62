"""Text for MLC: the tokenizer of the directory on the host, token ids elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import melt_core as melt
from melt_core import load_tokenizer
from melt_core.errors import InvalidArgumentError, ModelError


@pytest.fixture
def with_tokenizer(mlc_copy: Path) -> Path:
    """The model with a vocabulary of letters and four special tokens."""
    import tokenizers

    special = ["<unk>", "<s>", "</s>", "<user>", "<bot>"]
    letters = {chr(code): code - 32 + len(special) for code in range(32, 127)}
    vocabulary = {name: number for number, name in enumerate(special)} | letters
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(mlc_copy / "tokenizer.json"))
    return mlc_copy


def letters_of(text: str) -> list[int]:
    return [ord(letter) - 32 + 5 for letter in text]


def test_text_becomes_ids_and_back(with_tokenizer: Path) -> None:
    with melt.load(with_tokenizer, runtime="mlc", n_threads=1, n_ctx=64) as llm:
        assert llm.encode("Hi") == [1, *letters_of("Hi")]
        assert llm.encode("Hi", add_special=False) == letters_of("Hi")
        assert llm.encode("a<bot>", add_special=False) == [*letters_of("a"), 4]
        assert llm.encode("a<bot>", add_special=False, parse_special=False) == letters_of("a<bot>")
        assert llm.decode([1, *letters_of("Hi")]) == "<s>Hi"
        assert llm.decode([319]) == ""  # the model has more ids than its tokenizer
        with pytest.raises(InvalidArgumentError, match="token id 5000 is outside the vocabulary"):
            llm.decode([5000])


def test_a_tokenizer_is_loaded_without_the_model(with_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(with_tokenizer, runtime="mlc")
    assert tokenizer.decode(tokenizer.encode("Hi", add_special=False)) == "Hi"


def test_a_prompt_of_text_is_timed_as_part_of_the_run(with_tokenizer: Path) -> None:
    with melt.load(with_tokenizer, runtime="mlc", n_threads=1, n_ctx=64) as llm:
        with melt.profile(llm) as prof:
            done = prof.run("Hello", max_tokens=4, ignore_eos=True, overhead_budget_s=0)
        assert list(done.prompt_token_ids) == [1, *letters_of("Hello")]
    assert "tokenize" in {row["phase"] for row in prof.trace.phases.to_dicts()}
    assert "TOKENIZE" in {row.key for row in prof.trace.key_averages("op_type")}


def test_a_conversation_is_written_as_the_model_wants_it(with_tokenizer: Path) -> None:
    with melt.load(with_tokenizer, runtime="mlc", n_threads=1, n_ctx=64) as llm:
        text = llm.format_chat([("user", "Hi"), ("assistant", "Yes?"), ("user", "Go")])
        assert text == "<s>Be brief.<user>:Hi</s><bot>:Yes?</s><user>:Go</s><bot>:"
        assert llm.format_chat([("system", "No."), ("user", "Hi")]) == "<s>No.<user>:Hi</s><bot>:"
        with pytest.raises(ModelError, match="conversation template"):
            llm.format_chat([("judge", "Hi")])


def test_without_a_tokenizer_ids_are_passed_in(mlc_packed: Path) -> None:
    options = {"runtime": "mlc", "n_threads": 1, "n_ctx": 64}
    with melt.load(mlc_packed, **options) as llm, melt.profile(llm, levels=("tokens",)) as prof:
        with pytest.raises(InvalidArgumentError, match="has no tokenizer here: give the prompt as token ids"):
            prof.run("Hello")
        done = prof.run([5, 6, 7], max_tokens=3, ignore_eos=True, overhead_budget_s=0)
    assert len(done.token_ids) == 3
    assert done.text == ""


def test_a_stop_token_ends_the_output(mlc_packed: Path, tmp_path: Path) -> None:
    with melt.load(mlc_packed, runtime="mlc", n_threads=1, n_ctx=64) as llm, melt.profile(llm) as prof:
        tokens = prof.run([5, 6, 7], max_tokens=8, ignore_eos=True, overhead_budget_s=0).token_ids
    folder = tmp_path / "model"
    shutil.copytree(mlc_packed, folder)
    config = folder / "mlc-chat-config.json"
    config.write_text(config.read_text().replace('"eos_token_id": [2]', f'"eos_token_id": {tokens[3]}'))
    with melt.load(folder, runtime="mlc", n_threads=1, n_ctx=64) as llm, melt.profile(llm) as prof:
        done = prof.run([5, 6, 7], max_tokens=8, overhead_budget_s=0)
    assert done.token_ids == tokens[: tokens.index(tokens[3])]
