"""Repeats what failed for a reason that passes: always bounded in number and time, and always logged.

Only `TransientDeviceError` is repeated, and only here: every other error is the answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from melt_core.errors import CancelledError, DeviceBusyError, TransientDeviceError

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How often and how long a call is repeated; waits double from `first_wait_s` to `longest_wait_s`."""

    attempts: int = 5
    total_s: float = 60.0
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0


@dataclass(frozen=True)
class Waiter:
    """Time as a retry sees it: the real one, or a test's."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def retried(
    what: str,
    call: Callable[[], T],
    *,
    patience: Patience,
    waiter: Waiter | None = None,
    cancel: threading.Event | None = None,
) -> T:
    """Returns what `call` returns, repeating it while it raises `TransientDeviceError`.

    A device that another host has (`DeviceBusyError`) is not repeated: that lasts longer than any patience here.

    Args:
        what: What is tried, for the log.
        call: It may be called several times.
        patience: The bounds.
        waiter: The clock and the sleep.
        cancel: Ends the waiting when set.

    Raises:
        TransientDeviceError: The last one, when the bounds are reached; its message says how often it was tried.
        CancelledError: `cancel` was set.
    """
    waiter = waiter or Waiter()
    began, wait_s = waiter.now(), patience.first_wait_s
    for attempt in range(1, patience.attempts + 1):
        if cancel is not None and cancel.is_set():
            raise CancelledError(f"cancelled: {what}")
        try:
            return call()
        except DeviceBusyError:
            raise
        except TransientDeviceError as error:
            spent = waiter.now() - began
            if attempt == patience.attempts or spent + wait_s > patience.total_s:
                raise TransientDeviceError(f"{error} (tried {attempt} times in {spent:.1f} s: {what})") from error
            logger.warning("%s: %s; trying again in %.1f s (%d of %d)", what, error, wait_s, attempt, patience.attempts)
            waiter.sleep(wait_s)
            wait_s = min(wait_s * 2, patience.longest_wait_s)
    raise AssertionError("attempts is at least 1")
