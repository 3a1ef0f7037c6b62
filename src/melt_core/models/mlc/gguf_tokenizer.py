"""Writes ``tokenizer.json`` from a GGUF file's vocabulary, with the package ``tokenizers``.

Two kinds: byte-level BPE with merges ("gpt2"), whose way to split text is named by ``tokenizer.ggml.pre``; and
SentencePiece ("llama"), whose merges follow from the scores of its pieces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melt_core.errors import MissingExtraError, ModelError
from melt_core.models.mlc.gguf_header import GgufHeader

FILE_NAME = "tokenizer.json"

#: Kinds of tokens in ``tokenizer.ggml.token_type`` (gguf.TokenType).
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
#: How text is split before merging, by ``tokenizer.ggml.pre``: a pattern, or the name of what `tokenizers` has.
_SPLITS = {
    "default": "gpt2",
    "gpt-2": "gpt2",
    "smollm": "digits",
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}


def write_tokenizer(header: GgufHeader, folder: Path) -> list[str]:
    """Writes the tokenizer and returns its files; none if the file has no vocabulary.

    Raises:
        MissingExtraError: The package ``tokenizers`` is not installed.
        ModelError: The vocabulary is of a kind that cannot be written.
    """
    kind = header.key("tokenizer.ggml.model", "none")
    if kind in ("none", "no_vocab"):
        return []
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", extra="mlc") from error
    makers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in makers:
        raise ModelError(f"{header.path}: a tokenizer of the kind {kind} cannot be converted for MLC")
    tokens: list[str] = header.key("tokenizer.ggml.tokens")
    types: list[int] = header.key("tokenizer.ggml.token_type", [1] * len(tokens))
    tokenizer = makers[kind](tokenizers, header, tokens, types)
    for wanted, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        found = [token for token, each in zip(tokens, types, strict=True) if each == wanted]
        add([tokenizers.AddedToken(token, normalized=False, special=wanted == _CONTROL) for token in found])
    _add_special(tokenizers, tokenizer, header, tokens)
    tokenizer.save(str(folder / FILE_NAME))
    return [FILE_NAME]


def _byte_level(tokenizers: Any, header: GgufHeader, tokens: list[str], types: list[int]) -> Any:
    split = _SPLITS.get(header.key("tokenizer.ggml.pre", "default"))
    if split is None:
        raise ModelError(
            f"{header.path}: text is split by rules called {header.key('tokenizer.ggml.pre')}, which are not known here"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in header.key("tokenizer.ggml.merges", [])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split == _LLAMA3)
    )
    before = tokenizers.pre_tokenizers
    byte_level = before.ByteLevel(add_prefix_space=False, use_regex=split in ("gpt2", "digits"))
    if split == "digits":
        tokenizer.pre_tokenizer = before.Sequence([before.Digits(individual_digits=True), byte_level])
    elif split == "gpt2":
        tokenizer.pre_tokenizer = byte_level
    else:
        parts = before.Split(tokenizers.Regex(split), behavior="isolated")
        tokenizer.pre_tokenizer = before.Sequence([parts, byte_level])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _sentence_piece(tokenizers: Any, header: GgufHeader, tokens: list[str], types: list[int]) -> Any:
    """BPE over pieces: two neighbours are merged if their union is a piece, the one with the highest score first."""
    scores: list[float] = header.key("tokenizer.ggml.scores")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = []
    for number, token in enumerate(tokens):
        if types[number] in (_CONTROL, _BYTE):
            continue
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[number], vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    unknown = header.key("tokenizer.ggml.unknown_token_id", 0)
    pairs = [(left, right) for *_, left, right in merges]
    model = tokenizers.models.BPE(
        vocab=vocabulary, merges=pairs, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    prefix = header.key("tokenizer.ggml.add_space_prefix", True)
    space = "▁"  # SentencePiece's mark of a space
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    steps = [normalizers.Prepend(space)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", space)])
    undo = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return tokenizer


def _add_special(tokenizers: Any, tokenizer: Any, header: GgufHeader, tokens: list[str]) -> None:
    """Lets the tokenizer put the first token before each text, where the model wants it."""
    # What llama.cpp takes where the file does not say (llama-vocab.cpp).
    usual = header.key("tokenizer.ggml.model") == "llama" or header.key("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    bos = header.key("tokenizer.ggml.bos_token_id")
    if bos is None or not header.key("tokenizer.ggml.add_bos_token", usual):
        return
    token = tokens[bos]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, int(bos))]
    )
