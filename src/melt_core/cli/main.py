"""``melt``: picks the sub-command, and turns whatever goes wrong into one line and an exit code.

Exit codes: 0 done; 1 it failed; 2 bad use, with a line that says what to do; 130 interrupted; 141 the reader went away.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

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

_INTERRUPTED = 130
_READER_GONE = 141


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Prints what was wrong and where to look, and exits with 2."""
        self.exit(2, f"melt: error: {message}; see '{self.prog} --help'\n")


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
    _make_output_safe()
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except MeltError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        return _READER_GONE
    except OSError as error:  # of standard output: files are written through StorageError
        _close_stdout()
        return _fail(error.strerror or str(error), 1)
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


def _make_output_safe() -> None:
    """Names in a trace may hold any character; a terminal that lacks it shows its escape instead of failing."""
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
