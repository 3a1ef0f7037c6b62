"""Arguments on their way into the core: what its types cannot take is refused here, in our words.

Each check returns the value as the core takes it, or raises InvalidArgumentError with one line that names the argument
and what it may be. Values are shown with `ascii`: whatever is in them, the line stays one line.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from melt_core.errors import InvalidArgumentError

#: The core's numbers are 32 bits wide.
MAX_NUMBER = 2**31 - 1
_SHOWN_CHARACTERS = 60

_Call = TypeVar("_Call", bound=Callable[..., Any])


def _shown(value: object) -> str:
    text = "".join(each if each.isprintable() else " " for each in ascii(value))  # of a class' own words, any
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _wrong(name: str, value: object, may_be: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name} is {_shown(value)}: give {may_be}")


def checked_text(text: str, name: str = "the text") -> str:
    """Returns the text as it is; refused is one without a UTF-8 form, as when a command line argument was not UTF-8."""
    if not isinstance(text, str):
        raise _wrong(name, text, "a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} is not valid Unicode at character {error.start}: give UTF-8") from error
    return text


def checked_word(name: str, text: str) -> str:
    """Returns a text that the core looks up, or shows in a message: one without a zero byte."""
    if "\0" in checked_text(text, name):
        raise _wrong(name, text, "a text without a zero byte")
    return text


def checked_path(name: str, path: str | os.PathLike[str], *, may_be_empty: bool = False) -> str:
    """Returns a path as text; refused is what names no file."""
    try:
        text = os.fsdecode(path)
        os.fsencode(text)
    except TypeError as error:
        raise _wrong(name, path, "a path") from error
    except UnicodeEncodeError as error:
        raise _wrong(name, path, f"a path: character {error.start} cannot be in a file's name") from error
    if "\0" in text:
        raise _wrong(name, path, "a path, which holds no zero byte")
    if not text and not may_be_empty:
        raise _wrong(name, path, "the name of a file")
    return text


def checked_number(name: str, value: int, *, low: int = 0, high: int = MAX_NUMBER) -> int:
    """Returns a whole number from `low` to `high`."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise _wrong(name, value, f"a whole number from {low} to {high}") from error
    if isinstance(value, bool) or not low <= number <= high:
        raise _wrong(name, value, f"a number from {low} to {high}")
    return number


def checked_real(name: str, value: float) -> float:
    """Returns a number as a float; its range is for the caller to check, or for the core."""
    if isinstance(value, (bool, str, bytes, bytearray)):  # float() would take them
        raise _wrong(name, value, "a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(name, value, "a number") from error


def checked_flag(name: str, value: bool) -> bool:
    """Returns True or False; refused is what would only count as one of them, such as the text "no"."""
    if isinstance(value, int) or type(value).__name__ in ("bool", "bool_"):  # NumPy's too
        return bool(value)
    raise _wrong(name, value, "True or False")


def checked_call(name: str, value: _Call | None) -> _Call | None:
    """Returns a function, or None."""
    if value is not None and not callable(value):
        raise _wrong(name, value, "a function or None")
    return value


def checked_names(name: str, value: str | Iterable[str]) -> list[str]:
    """Returns names as a list; a single one may stand alone."""
    if isinstance(value, str):
        return [checked_word(name, value)]
    try:
        names = list(value)
    except TypeError as error:
        raise _wrong(name, value, "a name, or several") from error
    return [checked_word(f"one of {name}", each) for each in names]


def checked_ids(ids: Sequence[int], name: str = "the prompt") -> list[int]:
    """Returns token ids as a list; refused is one that can be in no vocabulary."""
    if isinstance(ids, (str, bytes, bytearray, memoryview)):
        raise _wrong(name, ids, "a text or whole numbers" if name == "the prompt" else "whole numbers")
    try:
        listed = list(ids)
    except TypeError as error:
        raise _wrong(name, ids, "a text or whole numbers" if name == "the prompt" else "whole numbers") from error
    return [_token(token) for token in listed]


def _token(value: int) -> int:
    try:
        token = operator.index(value)
    except TypeError as error:
        raise _wrong("a token id", value, "a whole number") from error
    if isinstance(value, bool) or not 0 <= token <= MAX_NUMBER:
        raise InvalidArgumentError(f"token id {_shown(value)} is outside the vocabulary")
    return token
