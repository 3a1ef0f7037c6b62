"""Numbers as people read them: three significant digits and a unit. A missing number is "-"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MISSING = "-"

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_COUNTS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def significant(value: float, digits: int = 3) -> str:
    """Returns `value` with three significant digits and no exponent below a million."""
    value = float(f"{value:.{digits - 1}e}")  # rounded first: 999.6 has one digit more before its point afterwards
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 <= magnitude < 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - magnitude, 0)}f}"


def _scaled(value: float | None, steps: Sequence[tuple[float, str]], floor: float = 0.0) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in steps:
        if abs(value) >= size * 0.9995 or size == steps[-1][0]:
            return f"{significant(value / size)} {unit}".rstrip()
    return MISSING


def time_ns(value: float | None) -> str:
    """Returns "12.3 ms" for nanoseconds."""
    return _scaled(value, _TIMES)


def time_ms(value: float | None) -> str:
    """Returns "12.3 ms" for milliseconds."""
    return MISSING if value is None else time_ns(value * 1e6)


def size_bytes(value: float | None) -> str:
    """Returns "1.23 GB" for bytes; decimal units."""
    return _scaled(value, _BYTES)


def count(value: float | None, unit: str = "") -> str:
    """Returns "1.23 G" for large numbers, with a unit behind."""
    text = _scaled(value, _COUNTS)
    return text if text == MISSING or not unit else (text + unit if " " in text else f"{text} {unit}")


def percent(value: float | None) -> str:
    """Returns "12.3 %" for a ratio; what is more than nothing is never shown as nothing."""
    if value is None or not math.isfinite(value):
        return MISSING
    if 0 < value < 0.0005:
        return "<0.1 %"
    return f"{value * 100:.1f} %"


def rate(value: float | None) -> str:
    """Returns "12.3 tok/s"."""
    return MISSING if value is None or not math.isfinite(value) else f"{significant(value)} tok/s"


def disturbed(groups: int | None, of_groups: int, reason: str | None) -> str:
    """Returns "12 of 51500 op groups (<0.1 %)", or that it is not known and why."""
    if groups is None:
        return f"not known: {reason}"
    share = f" ({percent(groups / of_groups)})" if of_groups else ""
    return f"{groups} of {of_groups} op groups{share}: a thread lost its processor"


def overhead(ratio: float | None, interval: Sequence[float] | None) -> str:
    """Returns "0.5 % slower (95 % CI 0.2 to 0.8 %)" for a ratio of rates, recorded over not recorded."""
    if ratio is None or not math.isfinite(ratio):
        return "not measured"
    if interval is None:
        return f"speed ratio {ratio:.3f}, of too few pairs to tell"
    lost = (1 - ratio) * 100
    text = f"{abs(lost):.2f} % {'slower' if lost >= 0 else 'faster'}"
    low, high = sorted((1 - bound) * 100 for bound in interval)
    none_seen = ": no difference seen" if low <= 0 <= high else ""
    return f"{text} (95 % CI {low:+.2f} to {high:+.2f} %{none_seen})"


def plain(value: Any) -> str:
    """Returns any value as one line of printable text, None as "-"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else str(value)
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
