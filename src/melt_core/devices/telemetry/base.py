"""What every telemetry parser gives and how much it takes: readings by channel, and what is absent with its reason.

    text of a file or a command -> one parser, one source -> Readout -> samples of the trace

A parser never guesses: a line it does not know is left out, a value that cannot be is absent with its reason, and a
text that is not of its format at all is a `TelemetryError`. Inputs come from devices and may hold anything, so that
their size is bounded before they are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from melt_core.errors import TelemetryError

#: Largest text a parser looks at; the longest real one (dumpsys cpuinfo of a busy phone) has about 50 kB.
MAX_TEXT_BYTES = 1 << 20
#: Longest line; a tegrastats line has about 700 characters.
MAX_LINE_CHARACTERS = 8192
MAX_LINES = 20_000

#: Temperatures outside of these are a driver's way to say "none": -99.9, -40000 and 0x7FFFFFFF have been seen.
LOWEST_C, HIGHEST_C = -35.0, 200.0


@dataclass(frozen=True)
class Channel:
    """What a series of readings is of; see ChannelRecord in docs/trace_format.md."""

    site: str
    kind: str
    unit: str
    source: str

    @property
    def name(self) -> str:
        """Returns "site/kind/unit"."""
        return f"{self.site}/{self.kind}/{self.unit}"


@dataclass(frozen=True)
class Reading:
    """One value of one channel, in the channel's unit."""

    channel: Channel
    value: float


@dataclass(frozen=True)
class Absent:
    """What could not be read, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Readout:
    """What one source said at one time.

    Attributes:
        readings: One per channel.
        absent: What the source should have and has not.
        facts: What is no number, such as a governor or a power mode.
        notes: What was assumed about signs and units, in words; it goes into the trace's metadata.
    """

    readings: tuple[Reading, ...] = ()
    absent: tuple[Absent, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def value(self, site: str, kind: str) -> float:
        """Returns the first reading of a site and kind; NaN if there is none."""
        for reading in self.readings:
            if reading.channel.site == site and reading.channel.kind == kind:
                return reading.value
        return math.nan


class ReadoutBuilder:
    """Collects a readout; what is no finite number becomes absent instead of a reading."""

    def __init__(self, source: str) -> None:
        """Everything added is said to come from `source`, unless it names its own."""
        self._source = source
        self._readings: dict[str, Reading] = {}
        self._absent: list[Absent] = []
        self._facts: dict[str, str] = {}
        self._notes: list[str] = []

    def add(self, site: str, kind: str, unit: str, value: float | None, *, source: str | None = None) -> None:
        """Adds a reading; None and what is not finite are noted as absent."""
        channel = Channel(site, kind, unit, source or self._source)
        if value is None or not math.isfinite(value):
            self.lacks(channel.name, f"{channel.source} has no number for it")
        elif channel.name in self._readings:
            self.lacks(
                channel.name,
                f"{channel.source} is a second source; {self._readings[channel.name].channel.source} counts",
            )
        else:
            self._readings[channel.name] = Reading(channel, float(value))

    def add_temperature(self, site: str, value_c: float | None, *, source: str | None = None) -> None:
        """Adds a temperature, unless it is one of the values that drivers give for "none"."""
        if value_c is not None and not LOWEST_C <= value_c <= HIGHEST_C:
            self.lacks(
                f"{site}/temperature/degC", f"{source or self._source} says {value_c:g}, which is no temperature"
            )
            return
        self.add(site, "temperature", "degC", value_c, source=source)

    def lacks(self, what: str, reason: str) -> None:
        """Notes what is not there."""
        self._absent.append(Absent(what, reason))

    def fact(self, name: str, value: str) -> None:
        """Keeps something that is no number."""
        self._facts[name] = value

    def note(self, text: str) -> None:
        """Keeps an assumption, once."""
        if text not in self._notes:
            self._notes.append(text)

    def value(self, site: str, kind: str, unit: str) -> float | None:
        """Returns what was added before."""
        reading = self._readings.get(f"{site}/{kind}/{unit}")
        return None if reading is None else reading.value

    def done(self) -> Readout:
        """Returns the readout."""
        return Readout(tuple(self._readings.values()), tuple(self._absent), dict(self._facts), tuple(self._notes))


def merged(readouts: Iterable[Readout]) -> Readout:
    """Returns one readout of several; of readings of one channel the first counts."""
    builder = ReadoutBuilder("")
    for readout in readouts:
        for reading in readout.readings:
            channel = reading.channel
            builder.add(channel.site, channel.kind, channel.unit, reading.value, source=channel.source)
        for absent in readout.absent:
            builder.lacks(absent.what, absent.reason)
        for name, text in readout.facts.items():
            builder.fact(name, text)
        for note in readout.notes:
            builder.note(note)
    return builder.done()


def lines_of(text: str, source: str) -> list[str]:
    """Returns the lines of a device's text without their ends.

    Raises:
        TelemetryError: The text is longer than anything the source can mean.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise TelemetryError(f"{source} gave {len(text)} characters: more than {MAX_TEXT_BYTES} are not read")
    lines = text.replace("\r", "").split("\n")
    if len(lines) > MAX_LINES:
        raise TelemetryError(f"{source} gave {len(lines)} lines: more than {MAX_LINES} are not read")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise TelemetryError(f"{source}, line {number}: {len(line)} characters are no line of it")
    return lines


def number_of(text: str | None) -> float | None:
    """Returns the number in a text of ASCII digits, or None: no underscores, no "nan", no words, nothing too long."""
    if text is None:
        return None
    text = text.strip()
    if not 0 < len(text) <= 40 or not text.isascii() or not set(text) <= set("0123456789+-.eE"):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def integer_of(text: str | None) -> int | None:
    """Returns the whole number in a text of ASCII digits, or None."""
    value = number_of(text)
    return int(value) if value is not None and value == int(value) else None


def scaled(value: float | None, factor: float) -> float | None:
    """Returns value x factor; None stays None."""
    return None if value is None else value * factor
