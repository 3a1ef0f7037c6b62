"""Which channels of a trace say what was drawn, in one unit and with one sign: power in W, or a running total in J.

    channels of a trace -> units and signs made equal -> Supply: one way to read what a site draws

A site can be read in several ways: a counter of energy, power, current and voltage, a gauge of charge and voltage.
Discharging is positive everywhere here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import ChunkKind
from melt_core.trace.tables import decode_text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

#: Kind of a channel -> unit as written -> what makes it W, J, A, V, Ah.
SCALES: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "power": {"W": 1.0, "mW": 1e-3, "uW": 1e-6},
        "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "Wh": 3600.0, "mWh": 3.6, "kWh": 3.6e6, "uWs": 1e-6, "Ws": 1.0},
        "current": {"A": 1.0, "mA": 1e-3, "uA": 1e-6},
        "voltage": {"V": 1.0, "mV": 1e-3, "uV": 1e-6},
        "charge": {"Ah": 1.0, "mAh": 1e-3, "uAh": 1e-6, "C": 1 / 3600.0},
    }
)
#: Beyond these a reading is garbage, in W, J, A, V, Ah.
_POSSIBLE: Final[Mapping[str, float]] = MappingProxyType(
    {"power": 1e5, "energy": 1e13, "current": 1e4, "voltage": 1e4, "charge": 1e5}
)
J_PER_VAH: Final = 3600.0
#: Of readings that are not 0: above this share of one sign, that is the sensor's sign and the rest is disturbance.
_ONE_SIGN_RATIO: Final = 0.9


@dataclass(frozen=True)
class Problem:
    """Something wrong with a sensor, where it was, and what was done about it."""

    kind: str
    start_ns: int
    end_ns: int
    text: str


@dataclass(frozen=True)
class Supply:
    """One way to read what one site draws.

    Attributes:
        name: Such as "package-0/energy" or "battery/current x voltage".
        is_counter: Whether `values` are a running total in J; otherwise they are W.
        range_j: Where the counter begins again from 0; None where that is not known.
        is_battery: Whether a charger makes the readings useless.
        charging: When a charger was connected: start and end in ns.
        problems: What was noticed and put right.
    """

    name: str
    site: str
    is_counter: bool
    time_ns: Array
    values: Array
    origin: str
    range_j: float | None = None
    is_battery: bool = False
    charging: tuple[tuple[int, int], ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Channel:
    site: str
    kind: str
    unit: str
    source: str
    time_ns: Array
    values: Array

    @property
    def name(self) -> str:
        return f"{self.site}/{self.kind}"


@dataclass
class _Found:
    supplies: list[Supply] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def supplies_of(trace: Trace) -> tuple[list[Supply], dict[str, str]]:
    """Returns every way to read what a site draws, and for each channel that cannot be used, why."""
    found = _Found()
    usable: dict[tuple[str, str], _Channel] = {}
    flags: list[_Channel] = []
    for channel in _channels(trace):
        if channel.kind == "charging":
            flags.append(channel)
        if channel.kind not in SCALES:
            continue
        scaled = _scaled(channel, found.missing)
        if scaled is not None:
            usable.setdefault((channel.site, channel.kind), scaled)
    charging = _plugged_in(flags)
    for (site, kind), channel in usable.items():
        battery = is_battery(site)
        plugged = charging if battery else ()
        if kind == "energy":
            found.supplies.append(_energy(channel, _range_j(trace, channel), battery, plugged))
        elif kind == "power":
            found.supplies.append(_power(channel, battery, plugged, has_flag=bool(flags)))
    for site in dict.fromkeys(site for site, _ in usable):
        _add_products(site, usable, charging, found, has_flag=bool(flags))
    return found.supplies, found.missing


def is_battery(site: str) -> bool:
    """Returns whether a site is a battery: its readings are of the charger's current too."""
    return site.lower().startswith("bat")


def _channels(trace: Trace) -> list[_Channel]:
    rows, samples = trace.records(ChunkKind.CHANNELS), trace.records(ChunkKind.SAMPLES)
    samples = samples[np.argsort(samples["time_ns"], kind="stable")]
    text = {name: decode_text(rows[name]).tolist() for name in ("site", "kind", "unit", "source")}
    found = []
    for row, number in enumerate(rows["channel"].tolist()):
        own = samples[samples["channel"] == number]
        own = own[np.isfinite(own["value"])]
        _, first = np.unique(own["time_ns"], return_index=True)
        fields = {name: values[row] for name, values in text.items()}
        found.append(_Channel(**fields, time_ns=own["time_ns"][first], values=own["value"][first]))
    return found


def _scaled(channel: _Channel, missing: dict[str, str]) -> _Channel | None:
    """Returns the channel in the unit that is stored everywhere; None with a reason where that cannot be."""
    scale = SCALES[channel.kind].get(channel.unit)
    if scale is None:
        known = ", ".join(SCALES[channel.kind])
        missing[channel.name] = f"its unit is {channel.unit!r}, and {channel.kind} is understood in {known}"
        return None
    possible = np.abs(channel.values) <= _POSSIBLE[channel.kind] / scale
    if not possible.all():
        missing[f"{channel.name}, in part"] = f"{(~possible).sum()} readings are beyond anything possible: left out"
    if possible.sum() < 2:
        missing[channel.name] = f"{possible.sum()} usable readings, and two are needed at least"
        return None
    time_ns, values = channel.time_ns[possible], channel.values[possible] * scale
    return _Channel(channel.site, channel.kind, channel.unit, channel.source, time_ns, values)


def _plugged_in(flags: list[_Channel]) -> tuple[tuple[int, int], ...]:
    """Returns when a charger was connected, from each reading that says so until the next that does not."""
    spans = []
    for flag in flags:
        on = flag.values > 0.5
        starts = np.flatnonzero(on & ~np.append(False, on[:-1]))
        ends = np.flatnonzero(on & ~np.append(on[1:], False))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            begin = flag.time_ns[start - 1] if start else flag.time_ns[0]
            spans.append((int(begin), int(flag.time_ns[min(end + 1, len(on) - 1)])))
    return tuple(spans)


def _range_j(trace: Trace, channel: _Channel) -> float | None:
    """Returns where the counter begins again, which its source says: `sensors.counter_ranges` of the metadata."""
    sensors = trace.metadata.get("sensors")
    ranges = sensors.get("counter_ranges") if isinstance(sensors, Mapping) else None
    value = ranges.get(channel.name) if isinstance(ranges, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    return float(value) * SCALES["energy"][channel.unit]


def _energy(channel: _Channel, range_j: float | None, battery: bool, charging: tuple[tuple[int, int], ...]) -> Supply:
    values, problems = channel.values, []
    steps = np.diff(values)
    moving = steps[steps != 0]
    if battery and len(moving) and (moving < 0).mean() > _ONE_SIGN_RATIO:  # what is left in it, not what was taken
        values = values[0] - values
        problems.append(_noted(channel, "sign", "falls: it is what is left, and its falling counts as drawn"))
    return Supply(
        channel.name, channel.site, True, channel.time_ns, values, channel.source, range_j, battery, charging,
        tuple(problems),
    )  # fmt: skip


def _power(channel: _Channel, battery: bool, charging: tuple[tuple[int, int], ...], *, has_flag: bool) -> Supply:
    values, problems, spans = _discharging(channel, battery=battery, has_flag=has_flag)
    return Supply(
        channel.name, channel.site, False, channel.time_ns, values, channel.source, None, battery, charging + spans,
        problems,
    )  # fmt: skip


def _discharging(
    channel: _Channel, *, battery: bool, has_flag: bool
) -> tuple[Array, tuple[Problem, ...], tuple[tuple[int, int], ...]]:
    """Returns the readings with the sign that means "drawn", what was done for that, and when a battery was charged."""
    values = channel.values
    signs = np.sign(values[values != 0])
    if len(signs) and (signs < 0).mean() > _ONE_SIGN_RATIO and (has_flag or not battery):
        text = "is negative throughout: the sensor counts the other way round, and its sign was turned"
        return -values, (_noted(channel, "sign", text),), ()
    if not battery:
        return values, (), ()
    backwards = _Channel(channel.site, "charging", "flag", channel.source, channel.time_ns, (values < 0).astype(float))
    return values, (), _plugged_in([backwards])


def _add_products(
    site: str,
    usable: Mapping[tuple[str, str], _Channel],
    charging: tuple[tuple[int, int], ...],
    found: _Found,
    *,
    has_flag: bool,
) -> None:
    """Adds what follows from current or charge together with the voltage of the same site."""
    voltage = usable.get((site, "voltage"))
    battery = is_battery(site)
    for kind in ("current", "charge"):
        channel = usable.get((site, kind))
        if channel is None:
            continue
        if voltage is None:
            found.missing[channel.name] = f"no {site}/voltage was read, and energy is current x voltage x time"
            continue
        volts = np.interp(channel.time_ns, voltage.time_ns, voltage.values)
        plugged = charging if battery else ()
        name, origin = f"{site}/{kind} x voltage", f"{channel.source} x {voltage.source}"
        if kind == "current":
            amps, problems, spans = _discharging(channel, battery=battery, has_flag=has_flag)
            supply = Supply(
                name, site, False, channel.time_ns, amps * volts, origin, None, battery, plugged + spans, problems
            )
        else:
            taken, problems, spans = _taken(channel, has_flag=has_flag or not battery)
            joules = np.append(0.0, np.cumsum(np.diff(taken) * (volts[1:] + volts[:-1]) / 2)) * J_PER_VAH
            supply = Supply(name, site, True, channel.time_ns, joules, origin, None, battery, plugged + spans, problems)
        found.supplies.append(supply)


def _taken(channel: _Channel, *, has_flag: bool) -> tuple[Array, tuple[Problem, ...], tuple[tuple[int, int], ...]]:
    """Returns the charge taken out since the first reading, whichever way the gauge counts; and when it was charged."""
    steps = np.diff(channel.values)
    moving = steps[steps != 0]
    if not len(moving) or (moving > 0).mean() <= _ONE_SIGN_RATIO:
        return channel.values[0] - channel.values, (), ()
    if has_flag:  # which says when a charger was connected: this is not that
        return channel.values - channel.values[0], (_noted(channel, "sign", "rises: it counts what was taken"),), ()
    return channel.values[0] - channel.values, (), ((int(channel.time_ns[0]), int(channel.time_ns[-1])),)


def _noted(channel: _Channel, kind: str, text: str) -> Problem:
    return Problem(kind, int(channel.time_ns[0]), int(channel.time_ns[-1]), f"{channel.name} {text}")


_RANK: Final = ("meter", "board", "psys", "battery", "soc")
_RAILS: Final = ("cpu", "gpu", "mem")
#: Rails of a board by the names that Jetsons give them; those of phones come from an iio device.
_RAIL_NAMES: Final = ("vdd", "vin", "pom", "cv")
_WAYS: Final = ("energy", "power", "current x voltage", "charge x voltage")


def ranked(supplies: list[Supply]) -> list[tuple[Supply, ...]]:
    """Returns what can stand for the whole device, best first: one supply, or several whose sum it is.

    A meter sees all of it, a board's input nearly all, a package or rails only themselves; the name says which.
    """

    def best(site: str) -> list[Supply]:
        own = [supply for supply in supplies if supply.site == site]
        return sorted(own, key=lambda supply: _WAYS.index(supply.name.removeprefix(f"{site}/")))

    sites = list(dict.fromkeys(supply.site for supply in supplies))
    order: list[tuple[Supply, ...]] = []
    for prefix in _RANK:
        for site in sites:
            if site.startswith(prefix) or (prefix == "battery" and is_battery(site)):
                order += [(supply,) for supply in best(site)]
    parts = [site for site in sites if re.fullmatch(r"package-\d+(-dram)?|dram", site)]
    if not any(site.startswith("package") for site in parts):
        parts = [site for site in sites if site.partition("-")[0] in _RAILS]
    if parts:
        order.append(tuple(best(site)[0] for site in parts))
    rails = [site for site in sites if _is_rail(best(site)[0]) and site not in parts]
    if rails:
        order.append(tuple(best(site)[0] for site in rails))
    known = {supply.name for combined in order for supply in combined}
    order += [(supply,) for supply in supplies if supply.name not in known]
    return order


def _is_rail(supply: Supply) -> bool:
    return supply.site.startswith(_RAIL_NAMES) or "iio:device" in supply.origin
