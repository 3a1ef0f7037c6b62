"""Conversions between the units that are stored (ns, bytes) and those that are shown. No formatting here."""

from __future__ import annotations

from typing import Final

NS_PER_US: Final = 1e3
NS_PER_MS: Final = 1e6
NS_PER_S: Final = 1e9
PPM_PER_RATIO: Final = 1e6


def ns_to_ms(time_ns: float) -> float:
    """Returns milliseconds for nanoseconds."""
    return float(time_ns) / NS_PER_MS


def per_second(amount: float, time_ns: float) -> float:
    """Returns ``amount`` per second, or NaN where no time passed: a rate that cannot be known is never 0."""
    return float(amount) * NS_PER_S / float(time_ns) if time_ns > 0 else float("nan")
