"""What ends a command from outside: Ctrl-C, `kill`, and a terminal that is closed. All three are treated alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from melt_core.errors import MeltError

_ONCE = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal arrived that ends a command; what Ctrl-C stops and tidies up, SIGTERM and SIGHUP do too."""

    def __init__(self, number: int) -> None:
        """Keeps which signal it was."""
        super().__init__()
        self.number = number


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Raises `Ended` when a signal arrives that ends a process; what is ignored, as under nohup, stays ignored.

    Where it arrives while a compiled module is being imported, that makes an ImportError of it: an error that comes
    after a signal is taken for the signal.
    """
    seen: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        seen.append(number)
        for each in set(before).intersection(_ONCE):  # a second one would interrupt the tidying up
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, *_ONCE):
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, end)
                before[number] = handler
    except ValueError:  # only a main thread can: elsewhere the caller has signals of its own
        pass
    try:
        yield
    except MeltError:
        raise
    except Exception as error:
        if seen:
            raise Ended(seen[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Returns what a shell reports of a process that such a signal ended."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def described(interrupt: KeyboardInterrupt) -> str:
    """Returns what happened, in words."""
    number = exit_code(interrupt) - 128
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
