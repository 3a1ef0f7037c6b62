"""Sign and unit of a battery's current, which differ between vendors: probed, never taken for granted.

Stored: amperes, positive while the battery discharges. Kernel documentation says microamperes, positive while it
charges; drivers with the opposite sign and with milliamperes are common.
"""

from __future__ import annotations

#: As microamperes below this a phone would run at less than 20 mA, as milliamperes at less than 20 A.
_SMALL = 20_000.0
#: No phone or laptop battery gives or takes more.
_MOST_A = 10.0


def oriented(current_a: float, status: str | None) -> float | None:
    """Returns the current, positive while discharging; None where the status does not tell the direction.

    Args:
        current_a: As the driver has it, of either sign.
        status: ``charging``, ``discharging``, ``full``, ``not charging`` or unknown.
    """
    if status == "discharging":
        return abs(current_a)
    if status == "charging":
        return -abs(current_a)
    return 0.0 if current_a == 0 else None


def amperes(raw: float, *, limits: tuple[float, ...] = ()) -> tuple[float, str]:
    """Returns a driver's current in amperes, its sign kept, and the unit that it was taken for.

    Args:
        raw: The driver's number.
        limits: Other currents of the same driver, such as current_max: where one is in the millions, so is the unit.
    """
    in_micro = abs(raw) >= _SMALL or abs(raw) * 1e-3 > _MOST_A or any(abs(limit) >= _SMALL for limit in limits)
    return (raw * 1e-6, "uA") if in_micro else (raw * 1e-3, "mA")
