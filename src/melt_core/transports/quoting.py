"""The one place where an argument list becomes a line for a shell of a device.

adb and ssh carry a command as one string that a shell on the device reads. Every such string of this package comes
from ``shell_line``. What is variable is an argument, quoted here; scripts are constants of this package and take what
varies as their positional parameters (``"$1"``), which no shell reads as code.
"""

from __future__ import annotations

from collections.abc import Sequence

from melt_core.errors import InvalidArgumentError

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./,:@%=")
#: Shells differ in what a backslash or a quote does between single quotes (fish), never in these two.
_ESCAPED = {"'": '"\'"', "\\": '"\\\\"'}


def quote(argument: str) -> str:
    """Returns the argument so that sh, mksh, bash, zsh, dash, ash and fish read exactly it, as one word.

    Raises:
        InvalidArgumentError: It holds a zero byte, which no argument of a program can.
    """
    if "\0" in argument:
        raise InvalidArgumentError(f"the argument {argument!r} holds a zero byte: no program can be given it")
    # A word with "=" or "~" in front, or none at all, means something to a shell; so only harmless ones stay bare.
    if argument and all(character in _PLAIN for character in argument) and "=" not in argument:
        return argument
    pieces: list[str] = []
    run = ""
    for character in argument:
        if character not in _ESCAPED:
            run += character
            continue
        if run:
            pieces.append(f"'{run}'")
        pieces.append(_ESCAPED[character])
        run = ""
    if run or not pieces:
        pieces.append(f"'{run}'")
    return "".join(pieces)


def shell_line(argv: Sequence[str]) -> str:
    """Returns the line that makes a shell become the program: its process id is the program's, as are its signals.

    Raises:
        InvalidArgumentError: No program is named, its name could be read as an option, or an argument holds a zero
            byte.
    """
    return "exec " + " ".join(quote(argument) for argument in check_argv(argv))


def check_argv(argv: Sequence[str]) -> list[str]:
    """Returns the argument list if it can be run at all.

    Raises:
        InvalidArgumentError: It is a single string, empty, or names a program that begins with a dash.
    """
    if isinstance(argv, str):
        raise InvalidArgumentError(f"a command is a list of arguments, not the string {argv!r}: split it")
    arguments = list(argv)
    if not arguments or not arguments[0]:
        raise InvalidArgumentError("the command names no program: its first argument is the program")
    if arguments[0].startswith("-"):
        raise InvalidArgumentError(f"the program {arguments[0]!r} begins with a dash: give its full path")
    for argument in arguments:
        if "\0" in argument:
            raise InvalidArgumentError(f"the argument {argument!r} holds a zero byte: no program can be given it")
    return arguments
