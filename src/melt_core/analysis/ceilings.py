"""The machine's measured ceilings as data: look-up of the one that applies, and JSON.

``melt_core.profiling.ceilings`` measures them; this module needs no core, so that an analysis on another machine can
use a file of them. Units: bytes/s for ``read_bandwidth``, flop/s for ``flops`` (multiply + add = 2, integers too).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from melt_core.errors import InvalidArgumentError

READ_BANDWIDTH = "read_bandwidth"
FLOPS = "flops"
#: Of the JSON form and of how the figures come about; a file with another number is not read.
FORMAT = 2
_UNITS = {READ_BANDWIDTH: "B/s", FLOPS: "flop/s"}
#: A set counts as held where a set half as large was measured: cached sets are measured at half of their cache.
_HELD_FACTOR = 2


@dataclass(frozen=True)
class Ceiling:
    """One measured ceiling.

    Attributes:
        kind: ``read_bandwidth`` or ``flops``.
        family: Where the bytes are (``L2``, ``L3``, ``memory``), or the instruction family, such as ``f32_avx2``.
        working_set_bytes: Of all threads together; None for ``flops``.
        n_threads: Threads, each on its own CPU where `Ceilings.pinned`.
        value: The ceiling, in `unit`: the best round.
        unit: ``B/s`` or ``flop/s``.
        median: Of the rounds, in `unit`.
        best: Of the rounds, in `unit`.
        n: Rounds.
    """

    kind: str
    family: str
    working_set_bytes: int | None
    n_threads: int
    value: float
    unit: str
    median: float
    best: float
    n: int

    def __post_init__(self) -> None:
        """Raises ValueError where the fields do not fit together."""
        numbers = (self.value, self.median, self.best)
        if self.kind not in _UNITS or self.unit != _UNITS[self.kind]:
            raise ValueError(f"kind {self.kind!r} with unit {self.unit!r}")
        if not all(math.isfinite(number) and number > 0 for number in numbers) or self.n < 1 or self.n_threads < 1:
            raise ValueError(f"{self.family}: a ceiling must be a positive number")
        if (self.working_set_bytes is None) != (self.kind == FLOPS):
            raise ValueError(f"{self.family}: working_set_bytes belongs to {READ_BANDWIDTH}, and to it alone")


@dataclass(frozen=True)
class AbsentCeiling:
    """One that could not be measured, and why. `n_threads` is None where it does not matter."""

    kind: str
    family: str
    reason: str
    n_threads: int | None = None


@dataclass(frozen=True)
class Ceilings:
    """What one machine can do at best.

    Attributes:
        cpu_model: As the system names it.
        core_version: Of the core that measured.
        hostname: Of the machine.
        measured_at: UTC, ISO 8601.
        frequency_hz: Current frequency of the CPU when it was measured; None where the system does not say.
        pinned: Whether each thread kept a CPU of its own.
        read_instructions: The widest that bandwidths were tried with; the notes say which were the fastest.
        ceilings: The measured ones.
        absent: The others.
        notes: How working sets were chosen, what limits the figures, and what is missing.
    """

    cpu_model: str
    core_version: str
    hostname: str
    measured_at: str
    frequency_hz: float | None
    pinned: bool
    read_instructions: str
    ceilings: tuple[Ceiling, ...]
    absent: tuple[AbsentCeiling, ...]
    notes: tuple[str, ...]

    def bandwidth(self, n_threads: int, working_set_bytes: float) -> Ceiling:
        """Returns the read bandwidth that limits `n_threads` threads going through this much data again and again.

        Of the measured sets that are at least half as large, the fastest: where the data may lie. Data that were not
        touched since much else was read lie further away: then give the size of all that is read in between. A decode
        step reads all weights, so the set of one of its products is the whole model.

        Args:
            n_threads: Threads; without a measurement for that many, the nearest number counts.
            working_set_bytes: Of all threads together.

        Raises:
            InvalidArgumentError: Nothing was measured for it.
        """
        rows = self._nearest([row for row in self.ceilings if row.kind == READ_BANDWIDTH], n_threads, "read bandwidth")
        holding = [row for row in rows if _holds(row, working_set_bytes)]
        if not holding:
            raise InvalidArgumentError(f"no read bandwidth was measured for {working_set_bytes:.0f} bytes")
        return max(holding, key=lambda row: row.value)

    def flops(self, n_threads: int, family: str) -> Ceiling:
        """Returns the arithmetic ceiling of an instruction family.

        Args:
            n_threads: Threads; without a measurement for that many, the nearest number counts.
            family: A name such as ``f32_avx512``; `families` lists those that were measured.

        Raises:
            InvalidArgumentError: The family was not measured; the message says why where that is known.
        """
        rows = [row for row in self.ceilings if row.kind == FLOPS and row.family == family]
        if not rows:
            reasons = [row.reason for row in self.absent if row.kind == FLOPS and row.family == family]
            why = reasons[0] if reasons else f"measured are {', '.join(self.families()) or 'none'}"
            raise InvalidArgumentError(f"no ceiling for {family}: {why}")
        return self._nearest(rows, n_threads, family)[0]

    def families(self) -> tuple[str, ...]:
        """Returns the instruction families that were measured."""
        return tuple(dict.fromkeys(row.family for row in self.ceilings if row.kind == FLOPS))

    def best_flops(self, n_threads: int, prefix: str) -> Ceiling:
        """Returns the highest arithmetic ceiling among families whose name begins with `prefix`: ``f32``, ``int8``.

        Raises:
            InvalidArgumentError: None was measured.
        """
        named = [family for family in self.families() if family.startswith(prefix)]
        if not named:
            raise InvalidArgumentError(f"no ceiling for {prefix}: measured are {', '.join(self.families()) or 'none'}")
        return max((self.flops(n_threads, family) for family in named), key=lambda row: row.value)

    @staticmethod
    def _nearest(rows: list[Ceiling], n_threads: int, what: str) -> list[Ceiling]:
        if not rows:
            raise InvalidArgumentError(f"no {what} was measured: run `melt doctor --ceilings --remeasure`")
        count = min({row.n_threads for row in rows}, key=lambda n: (abs(n - n_threads), n))
        return [row for row in rows if row.n_threads == count]

    def to_json(self) -> str:
        """Returns the JSON form; `from_json` is its inverse."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Ceilings:
        """Returns the ceilings of a JSON text.

        Raises:
            InvalidArgumentError: It is not the JSON form of this version, or holds what no ceiling can be.
        """
        try:
            raw = json.loads(text)
            found = raw.pop("format")
            if found != FORMAT:
                raise ValueError(f"format {found}, and this version reads {FORMAT}")
            raw["ceilings"] = tuple(Ceiling(**row) for row in raw["ceilings"])
            raw["absent"] = tuple(AbsentCeiling(**row) for row in raw["absent"])
            raw["notes"] = tuple(str(note) for note in raw["notes"])
            return cls(**{field.name: raw.pop(field.name) for field in fields(cls)})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidArgumentError(f"not a file of ceilings: {_worded(error)}") from error


def _worded(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _holds(row: Ceiling, working_set_bytes: float) -> bool:
    limit: Any = row.working_set_bytes
    return row.family == "memory" or working_set_bytes <= limit * _HELD_FACTOR
