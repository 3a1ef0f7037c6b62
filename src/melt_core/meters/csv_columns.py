"""Which column of a meter's CSV file is what, and in which unit: from its header, or as the caller says.

Known forms: ``Main(mA)``, ``Voltage [V]``, ``current_ma``, ``Power/W``, ``Time (ms)``, ``I (A)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from melt_core.errors import InvalidArgumentError

#: Kind -> unit as written in a header, lower case but for the SI prefix -> factor to the stored unit (time: ns).
SCALES: Final[Mapping[str, Mapping[str, float]]] = {
    "time": {"s": 1e9, "sec": 1e9, "seconds": 1e9, "ms": 1e6, "us": 1e3, "µs": 1e3, "μs": 1e3, "ns": 1.0, "min": 6e10},
    "power": {"W": 1.0, "mW": 1e-3, "uW": 1e-6, "µW": 1e-6, "μW": 1e-6, "kW": 1e3},
    "current": {"A": 1.0, "mA": 1e-3, "uA": 1e-6, "µA": 1e-6, "μA": 1e-6, "nA": 1e-9},
    "voltage": {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "μV": 1e-6, "kV": 1e3},
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "μJ": 1e-6, "Wh": 3600.0, "mWh": 3.6, "kWh": 3.6e6},
}
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("time", "timestamp", "datetime", "date", "zeit", "t", "elapsed"),
    "power": ("power", "p", "watt", "watts", "leistung"),
    "current": ("current", "i", "amps", "ampere", "main", "strom", "curr"),
    "voltage": ("voltage", "u", "v", "volt", "volts", "spannung", "volt_main"),
    "energy": ("energy", "energie"),
}
_BRACKETED: Final = re.compile(r"^(?P<name>.*?)\s*[\(\[/]\s*(?P<unit>[^\)\]/]+?)\s*[\)\]]?$")
_SUFFIXED: Final = re.compile(r"^(?P<name>.+?)[_\s](?P<unit>[A-Za-zµμ]{1,3})$")


@dataclass(frozen=True)
class Column:
    """One column that is read.

    Attributes:
        scale: What makes it the stored unit (of time: ns); None for times that are dates.
    """

    index: int
    name: str
    kind: str
    scale: float | None


def parse_header(name: str) -> tuple[str, str | None, str | None]:
    """Returns (name without its unit, unit or None, kind or None) of a column's header."""
    text = name.strip().strip('"').strip()
    for pattern in (_BRACKETED, _SUFFIXED):
        match = pattern.match(text)
        if match is None:
            continue
        found = _kinds_of_unit(match["unit"])
        if found:
            word = _kind_of_word(match["name"])
            kind = word if word in found else found[0]
            return match["name"].strip(), _spelled(match["unit"], kind), kind
        if pattern is _BRACKETED and _kind_of_word(match["name"]):
            return match["name"].strip(), match["unit"].strip(), _kind_of_word(match["name"])
    return text, None, _kind_of_word(text)


def _kinds_of_unit(unit: str) -> list[str]:
    return [kind for kind, scales in SCALES.items() if _spelled_or_none(unit, scales) is not None]


def _spelled(unit: str, kind: str) -> str:
    spelled = _spelled_or_none(unit, SCALES[kind])
    assert spelled is not None
    return spelled


def _spelled_or_none(unit: str, scales: Mapping[str, float]) -> str | None:
    """Returns the unit as `scales` has it; other case is allowed where only one unit reads so (never mW for MW)."""
    unit = unit.strip()
    if unit in scales:
        return unit
    if unit[:1] == "M":
        return None
    alike = [known for known in scales if known.lower() == unit.lower()]
    return alike[0] if len(alike) == 1 else None


def _kind_of_word(name: str) -> str | None:
    words = re.split(r"[^a-zµ]+", name.strip().lower())
    for kind in ("voltage", "power", "energy", "current", "time"):  # "Main Voltage" is a voltage
        if any(word in _WORDS[kind] for word in words if word):
            return kind
    return None


def choose_columns(
    header: Sequence[str], *, chosen: Mapping[str, str], units: Mapping[str, str], dated: Sequence[bool], where: str
) -> list[Column]:
    """Returns the columns to read, time first.

    Args:
        header: The file's header.
        chosen: Kind -> header of its column, where the caller says so.
        units: Kind -> unit, where the caller says so.
        dated: For each column, whether its values are dates and not numbers.
        where: The file, for messages.

    Raises:
        InvalidArgumentError: A column or a unit cannot be told, or two columns are of one kind.
    """
    parsed = [parse_header(name) for name in header]
    found: list[Column] = []
    for kind in SCALES:
        if kind in chosen:
            index = _index_of(header, chosen[kind], where)
        else:
            alike = [i for i, (_, _, of) in enumerate(parsed) if of == kind and header[i] not in chosen.values()]
            if not alike:
                continue
            if len(alike) > 1:
                names = ", ".join(repr(header[i]) for i in alike)
                raise InvalidArgumentError(f"{where}: {names} are all of {kind}: choose one (--column {kind}=NAME)")
            index = alike[0]
        is_date = kind == "time" and dated[index] and kind not in units
        unit = units.get(kind, parsed[index][1])
        scale = None if is_date else _scale(kind, unit, header[index], where)
        found.append(Column(index, header[index], kind, scale))
    if not found or found[0].kind != "time":
        raise InvalidArgumentError(
            f"{where}: none of the columns {_listed(header)} is a time: name it (--column time=NAME)"
        )
    if len(found) == 1:
        raise InvalidArgumentError(
            f"{where}: none of the columns {_listed(header)} is power, current, voltage or energy: name "
            "one (--column power=NAME)"
        )
    return found


def _index_of(header: Sequence[str], name: str, where: str) -> int:
    alike = [i for i, known in enumerate(header) if known.strip() == name.strip()]
    if len(alike) != 1:
        raise InvalidArgumentError(f"{where}: {len(alike)} columns are named {name!r}; it has {_listed(header)}")
    return alike[0]


def _scale(kind: str, unit: str | None, name: str, where: str) -> float:
    known = ", ".join(SCALES[kind])
    if unit is None:
        raise InvalidArgumentError(
            f"{where}: column {name!r} does not say its unit: give it (--unit {kind}=UNIT), one of {known}"
        )
    spelled = _spelled_or_none(unit, SCALES[kind])
    if spelled is None:
        raise InvalidArgumentError(f"{where}: column {name!r} is in {unit!r}, and {kind} is understood in {known}")
    return SCALES[kind][spelled]


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in header[:12])
    return shown + (f" and {len(header) - 12} more" if len(header) > 12 else "")
