"""A model file's tokenizer, without its weights.

Example:
    >>> from melt_core.runtime.tokenizer import load_tokenizer
    >>> load_tokenizer("any", runtime="synthetic").encode("Hi")
    [72, 105]
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fsencode

from melt_core.runtime.checks import checked_ids, checked_path, checked_text, checked_word
from melt_core.runtime.core import _core
from melt_core.runtime.mlc import MlcTokenizer


class Tokenizer:
    """Text to token ids and back. Made by `load_tokenizer`; may be used from several threads."""

    def __init__(self, core: _core.Tokenizer | MlcTokenizer) -> None:
        """Wraps a tokenizer of the core; use `load_tokenizer`."""
        self._core = core

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Returns the token ids of a text; see `LLM.encode`."""
        return self._core.encode(checked_text(text), add_special, parse_special)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; bytes that are no whole character become U+FFFD.

        Raises:
            InvalidArgumentError: An id is outside the vocabulary.
        """
        return self._core.decode(checked_ids(ids, "ids")).decode("utf-8", errors="replace")


def load_tokenizer(model: str | PathLike[str], *, runtime: str = "llama.cpp") -> Tokenizer:
    """Loads the vocabulary of a model file, which may be a file without weights.

    Raises:
        MissingExtraError: The MLC runtime's tokenizer needs a package that is not installed.
        ModelError: The file is missing, damaged or has no vocabulary.
        InvalidArgumentError: This build has no such runtime.
    """
    path = checked_path("model", model, may_be_empty=checked_word("runtime", runtime) == "synthetic")
    if runtime == "mlc":
        return Tokenizer(MlcTokenizer(path))
    return Tokenizer(_core.Tokenizer(runtime, fsencode(path)))
