"""Arguments on their way into the core: what its types cannot take is refused here, in our words."""

from __future__ import annotations

from collections.abc import Sequence

from melt_core.errors import InvalidArgumentError

#: The core's numbers are 32 bits wide.
MAX_NUMBER = 2**31 - 1


def checked_text(text: str) -> str:
    """Returns the text as it is.

    Raises:
        InvalidArgumentError: It has no UTF-8 form, as when a command line argument was not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the text is not valid Unicode at character {error.start}: give UTF-8") from error
    return text


def checked_number(name: str, value: int, *, low: int = 0, high: int = MAX_NUMBER) -> int:
    """Returns `value`, or raises InvalidArgumentError if it is not from `low` to `high`."""
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value}: give a number from {low} to {high}")
    return value


def checked_ids(ids: Sequence[int]) -> list[int]:
    """Returns token ids as a list, or raises InvalidArgumentError if one can be in no vocabulary."""
    listed = [int(token) for token in ids]
    for token in listed:
        if not 0 <= token <= MAX_NUMBER:
            raise InvalidArgumentError(f"token id {token} is outside the vocabulary")
    return listed
