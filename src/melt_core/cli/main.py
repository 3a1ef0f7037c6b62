"""``melt``: picks the sub-command, and turns whatever goes wrong into one line and an exit code.

Exit codes: 0 done; 1 it failed; 2 bad use, with a line that says what to do; 128 + n ended by signal n, as 130 by
Ctrl-C and 143 by `kill`; 141 the reader went away.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from melt_core.cli._signals import described, ended_in_order, exit_code
from melt_core.errors import MeltError

#: Commands in the order of a first session; each is a module of this package.
COMMANDS = (
    "profile",
    "summary",
    "ops",
    "memory",
    "roofline",
    "energy",
    "meter",
    "sustain",
    "compare",
    "report",
    "export",
    "models",
    "devices",
    "doctor",
    "completion",
)

_READER_GONE = 141
#: What a system says of a file that is written to, not of one that is opened.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Prints what was wrong and where to look, and exits with 2."""
        self.exit(2, f"melt: error: {message}; see '{self.prog} --help'\n")

    def print_help(self, file: Any = None) -> None:
        """Prints how it is used; argparse's own way is silent where that cannot be written."""
        print(self.format_help(), end="", file=file or sys.stdout)


def build_parser(names: Sequence[str] = COMMANDS) -> Parser:
    """Returns the parser with the given commands; only their modules are imported."""
    parser = Parser(prog="melt", description="Measures what a language model does on this machine.")
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in names:
        importlib.import_module(f"melt_core.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``melt`` with the given arguments (those of the process by default). Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _make_output_safe()
        with ended_in_order():
            code = _run(arguments)
            sys.stdout.flush()
        return code
    except MeltError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        return _fail(described(interrupt), exit_code(interrupt))
    except BrokenPipeError:
        _close_stdout()
        return _READER_GONE
    except OSError as error:  # files are written through StorageError: of standard output, or of the system's limits
        _close_stdout()
        return _fail(_worded(error), 1)
    except MemoryError:
        return _fail("out of memory: choose fewer rows, one run, or a machine with more", 1)


def _run(arguments: list[str]) -> int:
    known = arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS
    try:
        parser = build_parser(known)
        args, unknown = parser.parse_known_args(arguments)
        if unknown:  # by argparse's own way, the line would not name the command's help
            parser.prog = " ".join(filter(None, (parser.prog, args.command)))
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if args.version:
            return _print_version()
        if args.command is None:
            parser.error(f"name a command: {', '.join(COMMANDS)}")
    except SystemExit as request:  # argparse's way to say that it has printed all there is to say
        return request.code if isinstance(request.code, int) else 0
    code: int = args.run(args)
    return code


def _print_version() -> int:
    import melt_core

    print(f"melt {getattr(melt_core, '__version__', 'unknown')}")
    return 0


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    try:
        print(f"melt: error: {line}", file=sys.stderr)
    except OSError:
        return code
    return code


def _worded(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {what}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what}: this process may open no more; allow more with `ulimit -n`"
    return f"standard output: {what}" if error.errno in _OF_WRITING else what


def _make_output_safe() -> None:
    """Names in a trace may hold any character; a terminal that lacks it shows its escape instead of failing.

    Streams that the caller closed lead nowhere: their numbers are taken, lest a file that is opened later gets one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _close_stdout() -> None:
    """Points standard output at nothing, so that Python's own flush at exit does not fail once more."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return
