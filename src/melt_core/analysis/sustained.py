"""What a device can keep up: tokens over minutes, with the heat and clocks they ran at, and when the rate stepped.

    found = sustained([Trace.open(path) for path in segments])
    found.cold_tok_s, found.throttled_tok_s, found.time_to_throttle_s

A token's time grows with its place in a prompt. So places are compared with themselves, prompt by prompt, and what is
left is the device. Its logarithm, as the median of each half second, goes to the detector (`changepoints`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.changepoints import best_split, change_points, merged, running_median, without_spikes
from melt_core.analysis.samples import Series, series_of
from melt_core.analysis.stats import Stat
from melt_core.errors import TraceError
from melt_core.trace.format import RUN_WARMUP, TOKEN_CUT, ChunkKind, Phase
from melt_core.trace.table import Table
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

BIN_S: Final = 0.5
#: A rate has throttled when it is below this share of the cold one; smaller steps are not reported.
THROTTLED_RATIO: Final = 0.95
#: Below this a series of rates is too short to say anything of its steps.
_MIN_BINS: Final = 16
_SMOOTH_TOKENS: Final = 5
_SETTLED_K: Final = 1.0
_TEMPERATURE_SITES: Final = ("soc", "cpu", "gpu", "skin", "board", "battery")


@dataclass(frozen=True)
class Step:
    """The rate changed. `after_s` and `before_s` bound the time: the last token before it and the first one after."""

    time_s: float
    after_s: float
    before_s: float
    from_tok_s: float
    to_tok_s: float


@dataclass(frozen=True)
class Sustained:
    """A sustained run. Figures that cannot be known are None, with the reason in `missing`.

    Times are seconds since the first prompt. States: throttled, below 95 % of the cold rate behind a step; cold, before
    the temperature has risen by half of its rise; warm, after that.
    """

    n_runs: int
    n_tokens: int
    wall_s: float
    active_s: float
    n_segments: int
    cold_tok_s: Stat | None
    warm_tok_s: Stat | None
    throttled_tok_s: Stat | None
    sustained_tok_s: float | None
    settled: bool | None
    time_to_throttle_s: float | None
    recovery_s: float | None
    steps: tuple[Step, ...]
    peak_temperature_c: float | None
    mean_power_w: float | None
    stopped_by: str | None
    missing: Mapping[str, str]
    tokens: Table

    def to_json(self) -> dict[str, Any]:
        """Returns the figures ready for JSON; the tagged tokens as columns of equal length."""
        plain = {name: value for name, value in vars(self).items() if name not in ("tokens", "steps", "missing")}
        stats = {name: None if value is None else _stat_json(value) for name, value in plain.items() if _is_stat(name)}
        columns = {name: self.tokens[name].tolist() for name in self.tokens.columns}
        return {
            **plain,
            **stats,
            "steps": [asdict(step) for step in self.steps],
            "missing": dict(self.missing),
            "tokens": columns,
        }


def _is_stat(name: str) -> bool:
    return name in ("cold_tok_s", "warm_tok_s", "throttled_tok_s")


def _stat_json(stat: Stat) -> dict[str, Any]:
    return {"median": stat.median, "iqr": stat.iqr, "n": stat.n}


@dataclass(frozen=True)
class _Tokens:
    """Decode tokens of all segments, in order of time."""

    time_s: Array  # when it was known
    itl_s: Array
    index: Array
    run: Array
    segment: Array


def sustained(segments: Sequence[Trace], *, stopped_by: str | None = None) -> Sustained:
    """Returns what the traces of one sustained run show; several where it was interrupted and resumed.

    Args:
        segments: One trace for each sitting.
        stopped_by: How it ended, if that is known.

    Raises:
        TraceError: They hold too few decode tokens to say anything.
    """
    order = sorted(segments, key=lambda trace: trace.header.start_wall_ns)
    offsets_s = [(trace.header.start_wall_ns - order[0].header.start_wall_ns) / NS_PER_S for trace in order]
    tokens, zero_s = _gathered(order, offsets_s)
    if len(tokens.time_s) < 2 * _MIN_BINS:
        raise TraceError(f"{len(tokens.time_s)} decode tokens, and {2 * _MIN_BINS} are needed at least: run for longer")
    steps, level = _steps(tokens)
    tags = {
        name: _tag(order, offsets_s, zero_s, name, tokens.time_s) for name in ("temperature", "frequency", "throttle")
    }
    missing = {f"{name}": "no such channel was read" for name, found in tags.items() if found is None}
    states, why = _states(tokens, level, tags["temperature"])
    missing |= why
    rates = {name: _rate_stat(tokens, states == name) for name in ("cold", "warm", "throttled")}
    drops = [step for step in steps if step.to_tok_s < step.from_tok_s]
    recovery, reason = _recovery(steps)
    if reason is not None:
        missing["recovery_s"] = reason
    if not drops:
        missing["time_to_throttle_s"] = "the rate did not step down"
    temperature = tags["temperature"]
    return Sustained(
        n_runs=len(np.unique(tokens.run)),
        n_tokens=len(tokens.time_s),
        wall_s=float(tokens.time_s[-1]),
        active_s=_active_s(tokens),
        n_segments=len(order),
        cold_tok_s=rates["cold"],
        warm_tok_s=rates["warm"],
        throttled_tok_s=rates["throttled"],
        sustained_tok_s=_last_quarter(tokens),
        settled=_settled(tokens, steps, temperature),
        time_to_throttle_s=drops[0].time_s if drops else None,
        recovery_s=recovery,
        steps=tuple(steps),
        peak_temperature_c=None if temperature is None else float(np.nanmax(temperature)),
        mean_power_w=_mean_power_w(order, missing),
        stopped_by=stopped_by,
        missing=missing,
        tokens=_table(tokens, tags, states),
    )


def _gathered(traces: Sequence[Trace], offsets_s: Sequence[float]) -> tuple[_Tokens, float]:
    """Returns the decode tokens, and when the first prompt began on the axis of the first trace."""
    parts: list[list[Array]] = [[], [], [], [], []]
    zero_s, n_runs = math.inf, 0
    for segment, (trace, offset_s) in enumerate(zip(traces, offsets_s, strict=True)):
        runs, rows = trace.records(ChunkKind.RUNS), trace.records(ChunkKind.TOKENS)
        if not len(runs):
            continue
        measured = np.flatnonzero((runs["flags"] & RUN_WARMUP) == 0)
        kept = (rows["phase"] == Phase.DECODE) & ((rows["flags"] & TOKEN_CUT) == 0) & (rows["duration_ns"] > 0)
        rows = rows[kept & np.isin(rows["run"], measured)]
        zero_s = min(zero_s, float(runs["start_ns"].min()) / NS_PER_S + offset_s)
        columns = (
            (rows["start_ns"] + rows["duration_ns"]) / NS_PER_S + offset_s,
            rows["duration_ns"] / NS_PER_S,
            rows["index"].astype(np.int64),
            rows["run"].astype(np.int64) + n_runs,
            np.full(len(rows), segment),
        )
        for part, column in zip(parts, columns, strict=True):
            part.append(column)
        n_runs += len(runs)
    joined = [np.concatenate(part) if part else np.zeros(0) for part in parts]
    order = np.argsort(joined[0], kind="stable")
    time_s, *rest = (column[order] for column in joined)
    return _Tokens(time_s - (zero_s if math.isfinite(zero_s) else 0.0), *rest), zero_s


def _steps(tokens: _Tokens) -> tuple[list[Step], Array]:
    """Returns the steps of the rate, and for each token the rate of the stretch between two steps that it lies in."""
    log_rate = -_without_place(tokens)
    found: list[Step] = []
    level = np.empty(len(log_rate))
    rate = 1.0 / tokens.itl_s
    for segment in np.unique(tokens.segment).tolist():
        own = np.flatnonzero(tokens.segment == segment)
        at = [int(own[0]), *(int(own[cut]) for cut in _cuts(tokens.time_s[own], log_rate[own])), int(own[-1]) + 1]
        means = []
        for start, end in pairwise(at):
            middle = float(np.median(log_rate[start:end]))
            level[start:end] = middle
            means.append(middle)
        typical = float(np.median(rate[own]) / math.exp(float(np.median(log_rate[own]))))
        for cut, before, after in zip(at[1:-1], means[:-1], means[1:], strict=True):
            begin, end_s = float(tokens.time_s[cut - 1]), float(tokens.time_s[cut])
            when = end_s - float(tokens.itl_s[cut])  # the step before the first slow token: that is when it began
            found.append(Step(when, begin, end_s, math.exp(before) * typical, math.exp(after) * typical))
    return found, level


def _without_place(tokens: _Tokens) -> Array:
    """Returns the logarithm of each token's time, less what its place in a prompt makes of it.

    Medians over prompts at each place and over places in each prompt, in turns (Tukey's median polish): a prompt that
    ran slowly does not pass for a place that is slow.
    """
    residual = np.log(tokens.itl_s)
    place_effect = np.zeros(len(residual))
    by_prompt, by_place = _groups(tokens.run), _groups(tokens.index)
    if len(by_prompt) < 4:  # too few to know what a place costs
        return residual - float(np.median(residual))
    logs = residual.copy()
    for _ in range(4):
        prompt_effect = np.empty(len(logs))
        for rows in by_prompt:
            prompt_effect[rows] = np.median(logs[rows] - place_effect[rows])
        for rows in by_place:
            place_effect[rows] = np.median((logs - prompt_effect)[rows])
    place_effect -= float(np.median(place_effect))
    return np.asarray(logs - place_effect - float(np.median(logs)))


def _groups(keys: Array) -> list[Array]:
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _cuts(time_s: Array, log_rate: Array) -> list[int]:
    """Returns the rows at which a new rate begins: found on half-second medians, placed on single tokens."""
    bins = np.floor((time_s - time_s[0]) / BIN_S).astype(np.int64)
    first = np.flatnonzero(np.append(True, np.diff(bins) > 0))
    last = np.append(first[1:], len(bins))
    if len(first) < _MIN_BINS:
        return []
    smooth = running_median(log_rate, _SMOOTH_TOKENS)  # a single token that took long is no step
    medians = np.array([np.median(smooth[start:end]) for start, end in zip(first, last, strict=True)])
    changes = change_points(without_spikes(medians))
    cuts = [0]
    for at in merged(medians, changes, least_step=-math.log(THROTTLED_RATIO)):
        start, end = max(int(first[max(at - 3, 0)]), cuts[-1] + 1), int(last[min(at + 2, len(last) - 1)])
        cuts.append(min(start + best_split(smooth[start:end]), len(log_rate) - 1))
    return cuts[1:]


def _tag(traces: Sequence[Trace], offsets_s: Sequence[float], zero_s: float, kind: str, time_s: Array) -> Array | None:
    """Returns a channel's value at each token; NaN where it was not read near that. None where it never was."""
    values = np.full(len(time_s), np.nan)
    found = False
    for trace, offset_s in zip(traces, offsets_s, strict=True):
        series = pick(series_of(trace), kind)
        if series is None or not len(series.values):
            continue
        found = True
        seen_s = series.time_ns / NS_PER_S + offset_s - zero_s
        inside = (time_s >= seen_s[0] - 1.0) & (time_s <= seen_s[-1] + 1.0)
        values[inside] = np.interp(time_s[inside], seen_s, series.values)
    return values if found else None


def pick(series: Mapping[str, Series], kind: str) -> Series | None:
    """Returns the channel that stands for the device: the SoC's temperature, the fastest cluster's frequency, ..."""
    own = [found for found in series.values() if found.kind == kind and len(found.values)]
    if not own:
        return None
    if kind == "temperature":
        rank = {site: at for at, site in enumerate(_TEMPERATURE_SITES)}
        return min(own, key=lambda found: rank.get(found.site.partition("-")[0], len(rank)))
    return max(own, key=lambda found: float(found.values.max()))


def _states(tokens: _Tokens, level: Array, temperature: Array | None) -> tuple[Array, dict[str, str]]:
    first = level[0]
    throttled = level < first + math.log(THROTTLED_RATIO)
    if temperature is None or not np.isfinite(temperature).any():
        reason = "no temperature was read: what is not throttled counts as cold"
        return np.where(throttled, "throttled", "cold"), {"warm_tok_s": reason}
    start, top = float(temperature[np.isfinite(temperature)][0]), float(np.nanmax(temperature))
    warm = np.nan_to_num(temperature, nan=start) > start + 0.5 * (top - start)
    states = np.where(throttled, "throttled", np.where(warm & (top - start > _SETTLED_K), "warm", "cold"))
    missing = {}
    for name in ("cold", "warm", "throttled"):
        if not (states == name).any():
            missing[f"{name}_tok_s"] = f"no token ran {name}"
    return states, missing


def _rate_stat(tokens: _Tokens, chosen: Array) -> Stat | None:
    """Returns the rate over bins of half a second."""
    if not chosen.any():
        return None
    bins = np.floor(tokens.time_s[chosen] / BIN_S).astype(np.int64)
    itl = tokens.itl_s[chosen]
    rows = _groups(bins)
    return Stat.of(len(own) / float(itl[own].sum()) for own in rows)


def _recovery(steps: Sequence[Step]) -> tuple[float | None, str | None]:
    """Returns how long the rate stayed down, from the first step down until it was back at 95 %."""
    down: Step | None = None
    for step in steps:
        if down is None and step.to_tok_s < step.from_tok_s:
            down = step
        elif down is not None and step.to_tok_s >= THROTTLED_RATIO * down.from_tok_s:
            return step.time_s - down.time_s, None
    return None, "the rate never stepped down" if down is None else "the rate did not come back while it was measured"


def _active_s(tokens: _Tokens) -> float:
    """Returns how long prompts ran, without the pauses between segments."""
    return sum(float(np.ptp(tokens.time_s[tokens.segment == one])) for one in np.unique(tokens.segment))


def _last_quarter(tokens: _Tokens) -> float:
    last = tokens.time_s >= 0.75 * tokens.time_s[-1]
    return float(last.sum() / tokens.itl_s[last].sum())


def _settled(tokens: _Tokens, steps: Sequence[Step], temperature: Array | None) -> bool | None:
    """Returns whether rate and temperature stood still in the last quarter; None without a temperature."""
    begin_s = 0.75 * float(tokens.time_s[-1])
    if any(step.time_s > begin_s for step in steps):
        return False
    if temperature is None:
        return None
    last = temperature[(tokens.time_s >= begin_s) & np.isfinite(temperature)]
    return bool(len(last) > 1 and float(np.ptp(last)) <= _SETTLED_K)


def _mean_power_w(traces: Sequence[Trace], missing: dict[str, str]) -> float | None:
    from melt_core.analysis.energy import energy_of

    joules = seconds = 0.0
    for trace in traces:
        try:
            total = energy_of(trace, error_ratio=0.2).total
        except TraceError as error:
            missing["mean_power_w"] = str(error)
            continue
        if total.gross_j is None:
            missing["mean_power_w"] = total.reason or "not resolved"
            continue
        joules, seconds = joules + total.gross_j, seconds + total.wall_s
    return joules / seconds if seconds else None


def _table(tokens: _Tokens, tags: Mapping[str, Array | None], states: Array) -> Table:
    unknown = np.full(len(tokens.time_s), np.nan)
    return Table.from_arrays(
        {
            "time_s": tokens.time_s,
            "run": tokens.run,
            "index": tokens.index,
            "tok_s": 1.0 / tokens.itl_s,
            "temperature_c": unknown if tags["temperature"] is None else tags["temperature"],
            "frequency_hz": unknown if tags["frequency"] is None else tags["frequency"],
            "throttle_level": unknown if tags["throttle"] is None else tags["throttle"],
            "state": states.astype(object),
        }
    )
