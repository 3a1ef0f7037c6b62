"""What a run, a phase and a token cost in joules: measured, gross and net of idle power, with its interval.

    report = energy_of(trace)
    report.total.gross_j, report.per_token["decode"].gross_j

Definitions (docs/energy.md): the total is that of all measured runs together, warm-up left out. Net is gross minus idle
power x time; idle power is that of the windows recorded before and after the runs. A token's energy is the prefill's /
prompt tokens and the decode's / output tokens, never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy_channels import Supply, ranked, supplies_of
from melt_core.analysis.energy_curve import EnergyCurve, curve_of, summed
from melt_core.analysis.energy_design import timelines_of
from melt_core.analysis.energy_fit import response_s
from melt_core.analysis.energy_window import Z95, Span, WindowEnergy, energy_in, shortest_window_s
from melt_core.analysis.summary import measured_runs
from melt_core.errors import InvalidArgumentError, TraceError
from melt_core.trace.format import NONE, ChunkKind, ClockId, Phase
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]
Interval = tuple[float, float]

#: What a window's 95 % interval may be, on either side, of its energy.
DEFAULT_ERROR_RATIO: Final = 0.05
#: Idle power before and after the runs may differ by so much before a warning says so.
_IDLE_DRIFT_RATIO: Final = 0.10
_PHASES: Final = ("load", "tokenize", "prefill", "decode", "unload")


@dataclass(frozen=True)
class PhaseEnergy:
    """Energy of all phases of one name, or of all measured runs. None where not known, and `reason` says why."""

    phase: str
    gross_j: float | None
    net_j: float | None
    ci95_j: Interval | None
    net_ci95_j: Interval | None
    idle_w: float | None
    mean_w: float | None
    wall_s: float
    n_windows: int
    source: str
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenEnergy:
    """Energy of one token of a phase, in J."""

    gross_j: float | None
    net_j: float | None
    ci95_j: Interval | None
    n_tok: int
    reason: str | None = None


@dataclass(frozen=True)
class SourceEnergy:
    """What another way to read the same device gave, or why it was not taken."""

    source: str
    origin: str
    gross_j: float | None
    interval_s: float | None
    update_s: float | None
    response_s: float | None
    shortest_window_s: float | None
    reason: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class IdlePower:
    """Power of the windows in which nothing ran."""

    mean_w: float
    standard_error_w: float
    before_w: float | None
    after_w: float | None


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one trace. `to_json()` gives the stable keys total, phases, per_token, runs, sources."""

    total: PhaseEnergy
    phases: tuple[PhaseEnergy, ...]
    runs: tuple[PhaseEnergy, ...]
    per_token: Mapping[str, TokenEnergy]
    idle: IdlePower | None
    error_ratio: float
    sources: tuple[SourceEnergy, ...]
    missing: Mapping[str, str]
    warnings: tuple[str, ...]
    curve: EnergyCurve = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the report ready for JSON; what is not known is None, with the reason beside it."""
        per_token: dict[str, Any] = {}
        for name, token in self.per_token.items():
            per_token[f"{name}_j"] = token.gross_j
            per_token[f"{name}_net_j"] = token.net_j
            per_token[f"{name}_ci95_j"] = token.ci95_j
            per_token[f"{name}_reason"] = token.reason
        return {
            "kind": "measured",
            "total": asdict(self.total),
            "phases": [asdict(phase) for phase in self.phases],
            "per_token": per_token,
            "runs": [asdict(run) for run in self.runs],
            "idle": None if self.idle is None else asdict(self.idle),
            "error_ratio": self.error_ratio,
            "sources": [asdict(source) for source in self.sources],
            "missing": dict(self.missing),
            "warnings": list(self.warnings),
        }


def has_energy(trace: Trace) -> bool:
    """Returns whether any channel of a trace could say what was drawn."""
    return bool(supplies_of(trace)[0])


def energy_of(trace: Trace, *, source: str | None = None, error_ratio: float = DEFAULT_ERROR_RATIO) -> EnergyReport:
    """Returns what the measured runs of a trace cost.

    Args:
        trace: A trace with samples of power, energy, or a battery's current or charge.
        source: Which channel to take, as "package-0/energy" or as several joined by " + "; by default the one that sees
            most of the device and resolves the runs.
        error_ratio: The 95 % interval that a figure may have, on either side; what is wider is refused.

    Raises:
        InvalidArgumentError: No such source, or an error out of range.
        TraceError: The trace has no readings to take it from, or no measured run; the message says why.
    """
    if not 0 < error_ratio <= 1:
        raise InvalidArgumentError(f"an error of {error_ratio}: give a ratio in (0, 1], such as 0.05")
    supplies, missing = supplies_of(trace)
    if not supplies:
        raise TraceError(_no_sensor(trace, missing))
    spans = _run_spans(trace)
    if not spans:
        raise TraceError(f"{trace.path or 'the trace'} holds no measured run")
    candidates = ranked(supplies) if source is None else [_named_supplies(supplies, source)]
    edges, curves, tried = phase_edges(trace), [], []
    for combined in candidates:
        made = _combined(trace, combined, edges)
        tried.append(_tried(combined, made, spans, error_ratio))
        if not isinstance(made, str):
            curves.append((made, tried[-1]))
    if not curves:
        raise TraceError(f"no source can be used: {'; '.join(f'{one.source}: {one.reason}' for one in tried)}")
    good = [curve for curve, found in curves if found.reason is None]
    return _report(trace, good[0] if good else curves[0][0], spans, error_ratio, tuple(tried), missing)


def phase_edges(trace: Trace) -> Array:
    """Returns when runs and phases begin and end."""
    phases, runs = trace.records(ChunkKind.PHASES), trace.records(ChunkKind.RUNS)
    starts = np.concatenate([phases["start_ns"], runs["start_ns"]])
    ends = starts + np.concatenate([phases["duration_ns"], runs["duration_ns"]])
    return np.unique(np.concatenate([starts, ends]).astype(np.int64))


def phase_numbers(trace: Trace, time_ns: Array) -> Array:
    """Returns the number of the phase that each time lies in; 0 in none."""
    phases = trace.records(ChunkKind.PHASES)
    phases = phases[np.argsort(phases["start_ns"], kind="stable")]
    if not len(phases):
        return np.zeros(len(time_ns), np.int64)
    at = np.searchsorted(phases["start_ns"], time_ns, side="right") - 1
    inside = (at >= 0) & (time_ns < (phases["start_ns"] + phases["duration_ns"])[at])
    return np.where(inside, phases["phase"][at], 0).astype(np.int64)


def _run_spans(trace: Trace) -> list[Span]:
    runs = trace.records(ChunkKind.RUNS)[measured_runs(trace)]
    spans = zip(runs["start_ns"].tolist(), runs["duration_ns"].tolist(), strict=True)
    return [(start, start + length) for start, length in spans if length > 0]


def _combined(trace: Trace, supplies: Sequence[Supply], edges: Array) -> EnergyCurve | str:
    curves = []
    for supply in supplies:
        curve = curve_of(supply, edges, lambda time_ns: phase_numbers(trace, time_ns))
        if isinstance(curve, str):
            return curve if len(supplies) == 1 else f"{supply.name}: {curve}"  # who prints it names the source
        curves.append(curve)
    curve = summed(curves)
    spans = _run_spans(trace)
    return replace(curve, response_s=response_s(curve, timelines_of(trace, "phase", spans), spans))


def _tried(
    supplies: Sequence[Supply], curve: EnergyCurve | str, spans: Sequence[Span], error_ratio: float
) -> SourceEnergy:
    name = " + ".join(supply.name for supply in supplies)
    if isinstance(curve, str):
        return SourceEnergy(name, supplies[0].origin, None, None, None, None, None, curve, ())
    found = energy_in(curve, spans, error_ratio)
    power_w = float(curve.at(spans[-1][1]) - curve.at(spans[0][0])) / ((spans[-1][1] - spans[0][0]) / NS_PER_S)
    return SourceEnergy(
        name,
        curve.origin,
        found.gross_j,
        curve.interval_s,
        curve.update_s,
        curve.response_s,
        shortest_window_s(curve, power_w, error_ratio),
        found.reason,
        tuple(problem.text for problem in curve.problems),
    )


def _report(
    trace: Trace,
    curve: EnergyCurve,
    spans: list[Span],
    error_ratio: float,
    tried: tuple[SourceEnergy, ...],
    missing: Mapping[str, str],
) -> EnergyReport:
    idle, reasons = _idle(trace, curve)
    total = _priced("total", curve, energy_in(curve, spans, error_ratio), idle)
    if total.gross_j is None and len(spans) > 1:
        total = _widened(total, curve, spans, idle, error_ratio)
    by_phase = _phase_spans(trace)
    phases = tuple(
        _priced(name, curve, energy_in(curve, by_phase[name], error_ratio), idle)
        for name in _PHASES
        if by_phase.get(name)
    )
    runs = tuple(
        _priced(f"run {number}", curve, energy_in(curve, [span], error_ratio), idle)
        for number, span in zip(measured_runs(trace).tolist(), spans, strict=False)
    )
    return EnergyReport(
        total=total,
        phases=phases,
        runs=runs,
        per_token=_per_token(trace, {phase.phase: phase for phase in phases}),
        idle=idle,
        error_ratio=error_ratio,
        sources=tried,
        missing={**missing, **reasons},
        warnings=tuple(_warnings(curve, idle)),
        curve=curve,
    )


def _phase_spans(trace: Trace) -> dict[str, list[Span]]:
    """Returns the windows of each phase of the measured runs, and of what belongs to no run."""
    phases = trace.records(ChunkKind.PHASES)
    runs = trace.records(ChunkKind.RUNS)["run"][measured_runs(trace)]
    names = {int(phase): phase.name.lower() for phase in Phase}
    found: dict[str, list[Span]] = {}
    for row in phases[np.isin(phases["run"], np.append(runs, NONE))]:
        name, start = names.get(int(row["phase"]), "unknown"), int(row["start_ns"])
        if row["duration_ns"] > 0:
            found.setdefault(name, []).append((start, start + int(row["duration_ns"])))
    return found


def _idle(trace: Trace, curve: EnergyCurve) -> tuple[IdlePower | None, dict[str, str]]:
    spans = _phase_spans(trace).get("idle", [])
    if not spans:
        why = "no idle window was recorded, so nothing is net: profile with --idle-s 5"
        if trace.header.clock_id == ClockId.SIMULATED:
            why += ", and clock=host (a simulated clock stands still while nothing runs)"
        return None, {"idle_w": why}
    first_run = min(start for start, _ in _run_spans(trace))
    sides: dict[bool, list[WindowEnergy]] = {True: [], False: []}
    for start, end in spans:
        found = energy_in(curve, [(start, end)], 1.0)
        if found.gross_j is not None:
            sides[start < first_run].append(found)
    known = {side: found for side, found in sides.items() if found}
    if not known:
        return None, {"idle_w": f"idle power: {energy_in(curve, spans, 1.0).reason}"}
    means = {side: _mean_w(found) for side, found in known.items()}
    mean_w = float(np.mean([power for power, _ in means.values()]))
    noise = float(np.sqrt(sum(error**2 for _, error in means.values()))) / len(means)
    drift = abs(means[True][0] - means[False][0]) / 2 / np.sqrt(3) if len(means) == 2 else 0.0
    before, after = (means[side][0] if side in means else None for side in (True, False))
    return IdlePower(mean_w, float(np.hypot(noise, drift)), before, after), {}


def _mean_w(windows: Sequence[WindowEnergy]) -> tuple[float, float]:
    wall_s = sum(window.wall_s for window in windows)
    error = float(np.sqrt(sum(window.standard_error_j**2 for window in windows)))
    return sum(window.gross_j or 0.0 for window in windows) / wall_s, error / wall_s


def _priced(name: str, curve: EnergyCurve, found: WindowEnergy, idle: IdlePower | None) -> PhaseEnergy:
    """Returns what was found in windows, with the idle power taken off."""
    net = interval = None
    if found.gross_j is not None and idle is not None:
        net = found.gross_j - idle.mean_w * found.wall_s
        error = Z95 * float(np.hypot(found.standard_error_j, idle.standard_error_w * found.wall_s))
        interval = (net - error, net + error)
    return PhaseEnergy(
        phase=name,
        gross_j=found.gross_j,
        net_j=net,
        ci95_j=found.ci95_j,
        net_ci95_j=interval,
        idle_w=None if idle is None else idle.mean_w,
        mean_w=None if found.gross_j is None else found.gross_j / found.wall_s,
        wall_s=found.wall_s,
        n_windows=found.n_windows,
        source=curve.name,
        reason=found.reason,
        notes=found.notes,
    )


def _widened(
    total: PhaseEnergy, curve: EnergyCurve, spans: list[Span], idle: IdlePower | None, error_ratio: float
) -> PhaseEnergy:
    """Returns the total of one window over all runs, pauses included, where the runs alone are too short."""
    whole = energy_in(curve, [(spans[0][0], spans[-1][1])], error_ratio)
    if whole.gross_j is None:
        return total
    why = f"widened to one window from the first run to the last, pauses included: {total.reason}"
    wide = _priced("total", curve, whole, idle)
    return PhaseEnergy(**{**vars(wide), "notes": (why, *wide.notes)})


def _per_token(trace: Trace, phases: Mapping[str, PhaseEnergy]) -> dict[str, TokenEnergy]:
    runs = trace.records(ChunkKind.RUNS)[measured_runs(trace)]
    counts = {"prefill": int(runs["n_prompt"].sum()), "decode": int(runs["n_output"].sum())}
    found = {}
    for name, n_tok in counts.items():
        phase = phases.get(name)
        if phase is None or n_tok == 0:
            found[name] = TokenEnergy(None, None, None, n_tok, f"the measured runs have no {name} phase")
        elif phase.gross_j is None or phase.ci95_j is None:
            found[name] = TokenEnergy(None, None, None, n_tok, phase.reason)
        else:
            low, high = phase.ci95_j
            net = None if phase.net_j is None else phase.net_j / n_tok
            found[name] = TokenEnergy(phase.gross_j / n_tok, net, (low / n_tok, high / n_tok), n_tok)
    return found


def _warnings(curve: EnergyCurve, idle: IdlePower | None) -> list[str]:
    warnings = [problem.text for problem in curve.problems]
    if idle is not None and idle.before_w is not None and idle.after_w is not None:
        drift = abs(idle.after_w - idle.before_w) / max(idle.mean_w, 1e-12)
        if drift > _IDLE_DRIFT_RATIO:
            warnings.append(
                f"idle power was {idle.before_w:.3g} W before the runs and {idle.after_w:.3g} W after them: net energy "
                "depends on which of them is taken off"
            )
    return warnings


def _named_supplies(supplies: list[Supply], name: str) -> tuple[Supply, ...]:
    known = {supply.name: supply for supply in supplies}
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in known:
            raise InvalidArgumentError(f"no source {part!r}: this trace has {', '.join(known)}")
    return tuple(known[part] for part in parts)


def _no_sensor(trace: Trace, missing: Mapping[str, str]) -> str:
    """Returns why nothing can be said of energy, with what the trace itself gives as reasons."""
    sensors = trace.metadata.get("sensors")
    reasons: dict[str, str] = {}
    for key in ("missing", "absent"):
        found = sensors.get(key) if isinstance(sensors, Mapping) else None
        reasons |= {str(name): str(why) for name, why in found.items()} if isinstance(found, Mapping) else {}
    words = ("power", "energy", "current", "charge", "rapl", "battery", "hwmon", "odpm", "nvml", "ina")
    shown = {name: why for name, why in {**reasons, **missing}.items() if any(word in name.lower() for word in words)}
    text = "; ".join(f"{name}: {why}" for name, why in shown.items())
    where = trace.path or "the trace"
    return (
        f"{where} has no readings of power or energy (`melt meter join` adds those of an external meter): "
        f"{text or 'no sensor was recorded'}"
    )
