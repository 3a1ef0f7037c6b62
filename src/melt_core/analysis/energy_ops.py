"""What each kind of op costs in joules: modelled, by least squares of power on the time that ops took.

    found = op_energy(trace, by="op_type")
    found.rows          # or None, and found.refusal says why the readings do not tell

No sensor sees one op. But readings fall differently on ops, and over many tokens power that follows the mix of ops
tells what each draws: reading j was W_j = sum over groups of p_g x share_gj, with p_g >= 0. A group's energy is p_g x
its time. Intervals come from a moving-block bootstrap, as neighbouring readings are correlated.

Nothing is shown where the readings cannot tell: too few, every reading of the same mix, or a sensor that answers more
slowly than the ops change. The window that a sensor averages over is found from how power answers to the load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.energy import EnergyReport, energy_of
from melt_core.analysis.energy_curve import EnergyCurve
from melt_core.analysis.energy_design import Timeline, key_of, timelines_of
from melt_core.analysis.energy_fit import Fit, best_window, readings_of
from melt_core.analysis.energy_nnls import condition, nnls, solve_all, variance_inflation
from melt_core.analysis.energy_window import Span
from melt_core.analysis.summary import measured_runs
from melt_core.trace.format import ChunkKind
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

#: Beyond these the columns are one another's sums (Belsley, Kuh, Welsch 1980, give 30 for the first).
MAX_CONDITION: Final = 30.0
MAX_INFLATION: Final = 30.0
#: Where readings overlap, over a window that itself had to be found.
MAX_INFLATION_INFERRED: Final = 10.0
#: Readings for each column, and blocks of correlated ones in all.
MIN_ROWS_PER_COLUMN: Final = 20
MIN_BLOCKS: Final = 30
#: Power must follow the ops so clearly that chance would do it once in a thousand times.
_MIN_F: Final = 6.0
_DRAWS: Final = 1000


@dataclass(frozen=True)
class OpEnergy:
    """Modelled energy of one group of ops in all measured runs.

    Attributes:
        power_w: While it ran, of the whole of what the source measures.
        time_share: Its part of the runs' time; energy_share: of their energy.
        inflation: By how much its likeness to the other groups widens its interval.
    """

    key: str
    gross_j: float
    ci95_j: tuple[float, float]
    power_w: float
    time_s: float
    time_share: float
    energy_share: float
    inflation: float


@dataclass(frozen=True)
class OpEnergyReport:
    """Energy by groups of ops. `rows` is None where the readings do not tell, and `refusal` says why."""

    by: str
    source: str
    rows: tuple[OpEnergy, ...] | None
    refusal: str | None
    n_readings: int
    window_s: float | None
    condition: float | None
    block: int | None
    modelled_j: float | None
    measured_j: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns the report ready for JSON."""
        return {"kind": "modelled", **asdict(self)}


def op_energy(
    trace: Trace,
    *,
    by: str = "op_type",
    source: str | None = None,
    report: EnergyReport | None = None,
    seed: int = 0,
) -> OpEnergyReport:
    """Returns what groups of ops cost, as a model fitted to the readings; or why they do not tell.

    Args:
        trace: A trace with readings of power or energy; but for "phase" also with level ops.
        by: "op_type", "module" or "phase".
        source: As for `energy_of`.
        report: What `energy_of` gave for the same source, if at hand.
        seed: Of the bootstrap.

    Raises:
        InvalidArgumentError: There is no such grouping or source.
        TraceError: The trace holds no ops, or no readings.
    """
    measured = report or energy_of(trace, source=source)
    runs = trace.records(ChunkKind.RUNS)[measured_runs(trace)]
    spans = [(int(row["start_ns"]), int(row["start_ns"] + row["duration_ns"])) for row in runs]
    timelines = timelines_of(trace, by, spans)
    refused = OpEnergyReport(by, measured.curve.name, None, None, 0, None, None, None, None, measured.total.gross_j)
    bad = _unusable(measured, spans)
    if bad is not None:
        return replace(refused, refusal=bad)
    readings = readings_of(measured.curve)
    fit, alike = best_window(measured.curve, readings, timelines, spans)
    kept = [name for at, name in enumerate(timelines) if fit.design[:, at].any()]
    columns = [at for at, name in enumerate(timelines) if name in kept]
    fit, alike = _with_columns(fit, columns), [_with_columns(other, columns) for other in alike]
    refused = _described(refused, fit)
    why = _why_not(fit, kept, measured.curve, trace)
    if why is not None:
        return replace(refused, refusal=why)
    rows, block = _rows(fit, alike, {name: timelines[name] for name in kept}, seed)
    modelled = sum(row.gross_j for row in rows)
    return replace(refused, rows=rows, block=block, modelled_j=modelled)


def _described(report: OpEnergyReport, fit: Fit) -> OpEnergyReport:
    found = condition(fit.design.T @ fit.design)
    return replace(report, n_readings=len(fit.power_w), window_s=fit.window_s, condition=found)


def _unusable(measured: EnergyReport, spans: Sequence[Span]) -> str | None:
    curve = measured.curve
    for start, end in curve.charging:
        if start < spans[-1][1] and end > spans[0][0]:
            return f"invalid: a charger was connected during the runs, and {curve.name} is then not what was drawn"
    unknown = sum(curve.unknown_s(start, end) for start, end in spans)
    total = sum(end - start for start, end in spans) / NS_PER_S
    if unknown > 0.5 * total:
        return f"{curve.name} has no usable reading for {unknown:.3g} s of {total:.3g} s"
    return None


def _with_columns(fit: Fit, columns: list[int]) -> Fit:
    return replace(fit, design=fit.design[:, columns])


def _why_not(fit: Fit, names: list[str], curve: EnergyCurve, trace: Trace) -> str | None:
    """Returns why the readings do not tell the groups apart; None where they do."""
    n, k = fit.design.shape
    if k < 2:
        return "there is one group only: its energy is the total"
    if n < MIN_ROWS_PER_COLUMN * k:
        return (
            f"{n} readings within the runs for {k} groups, and {MIN_ROWS_PER_COLUMN * k} are needed: use more repeats, "
            "more tokens, or a faster sensor"
        )
    n_blocks = n // _block(fit)
    if n_blocks < MIN_BLOCKS:
        return f"the readings are so alike in time that they count as {n_blocks} only, and {MIN_BLOCKS} are needed"
    gram = fit.design.T @ fit.design
    inflation = variance_inflation(gram)
    found = condition(gram)
    inferred = not curve.is_counter and fit.window_s > 1.2 * curve.interval_s
    limit = MAX_INFLATION_INFERRED if inferred else MAX_INFLATION
    if found > MAX_CONDITION or inflation.max() > limit:
        alike = [names[at] for at in np.argsort(-inflation)[:2].tolist()]
        pace = _pace(fit, curve, trace)
        return (
            f"the readings do not tell {' and '.join(alike)} apart (condition {found:.3g}, at most "
            f"{MAX_CONDITION:.0f}; variance inflation {inflation.max():.3g}, at most {limit:.0f}){pace}"
        )
    if _f_statistic(fit) < _MIN_F:
        return (
            "power does not follow the ops: either all of them draw the same, or the sensor averages over so long that "
            "it cannot show it"
        )
    return None


def _pace(fit: Fit, curve: EnergyCurve, trace: Trace) -> str:
    tokens = trace.records(ChunkKind.TOKENS)["duration_ns"]
    token_s = float(np.median(tokens)) / NS_PER_S if len(tokens) else math.nan
    window_s = max(fit.window_s, curve.interval_s)
    if not token_s > 0 or window_s < token_s / 4:
        return ""
    return (
        f": the sensor is too slow, each reading covers {window_s * 1e3:.3g} ms, and a token takes "
        f"{token_s * 1e3:.3g} ms"
    )


def _f_statistic(fit: Fit) -> float:
    """Returns how much better the groups explain power than one power for all of them does."""
    n, k = fit.design.shape
    effective = max(n / _correlated(fit), k + 1.0)
    around_mean = float(((fit.power_w - fit.power_w.mean()) ** 2).sum())
    around_fit = float((fit.residual_w**2).sum())
    if around_fit <= 0:
        return math.inf if around_mean > 0 else 0.0
    return float((around_mean - around_fit) / (k - 1) / (around_fit / (effective - k)))


def _correlated(fit: Fit) -> int:
    """Returns over how many neighbouring readings the residuals are correlated; 1 where they are not."""
    n = len(fit.residual_w)
    residual = fit.residual_w - fit.residual_w.mean()
    power = float(residual @ residual)
    lag = 1
    if power > 0:
        while lag < n // 4 and abs(float(residual[:-lag] @ residual[lag:])) / power > 2 / math.sqrt(n):
            lag += 1
    return lag


def _block(fit: Fit) -> int:
    """Returns the length of the bootstrap's blocks."""
    n = len(fit.residual_w)
    return min(max(1, int(np.cbrt(n) + 0.5), 2 * (_correlated(fit) - 1)), max(n // 4, 1))


def _rows(
    fit: Fit, alike: Sequence[Fit], timelines: dict[str, Timeline], seed: int
) -> tuple[tuple[OpEnergy, ...], int]:
    """Returns one row for each key, which may have several columns: their energies add up, draw by draw."""
    gram = fit.design.T @ fit.design
    power = nnls(gram, fit.design.T @ fit.power_w)
    block = _block(fit)
    seconds = np.array([line.total_s for line in timelines.values()])
    keys = list(dict.fromkeys(key_of(name) for name in timelines))
    adds = np.array([[key_of(name) == key for name in timelines] for key in keys]) * seconds  # [keys, columns], in s
    joules, time_s = adds @ power, adds.sum(axis=1)
    low, high = _interval(joules, _drawn(fit, block, seed) @ adds.T, len(fit.power_w) / block, len(power))
    for other in alike:  # which of these windows is the sensor's, the readings do not say
        shift = adds @ nnls(other.design.T @ other.design, other.design.T @ other.power_w) - joules
        low, high = np.minimum(low, low + shift), np.maximum(high, high + shift)
    inflation = variance_inflation(gram)
    total_j, total_s = float(joules.sum()), float(time_s.sum())
    rows = [
        OpEnergy(
            key=key,
            gross_j=float(joules[at]),
            ci95_j=(max(float(low[at]), 0.0), float(high[at])),
            power_w=float(joules[at] / time_s[at]) if time_s[at] else math.nan,
            time_s=float(time_s[at]),
            time_share=float(time_s[at] / total_s) if total_s else math.nan,
            energy_share=float(joules[at] / total_j) if total_j else math.nan,
            inflation=float(inflation[adds[at] > 0].max(initial=1.0)),
        )
        for at, key in enumerate(keys)
    ]
    return tuple(sorted(rows, key=lambda row: -row.gross_j)), block


def _drawn(fit: Fit, block: int, seed: int) -> Array:
    """Returns each column's power in every draw of the bootstrap: moving blocks of readings, with replacement.

    Kuensch 1989, "The jackknife and the bootstrap for general stationary observations". The blocks' normal equations
    are added up beforehand, so that a draw is a sum of a few of them.
    """
    n, k = fit.design.shape
    products = fit.design[:, :, None] * fit.design[:, None, :]
    grams = np.concatenate([np.zeros((1, k, k)), np.cumsum(products, axis=0)])
    moments = np.concatenate([np.zeros((1, k)), np.cumsum(fit.design * fit.power_w[:, None], axis=0)])
    block_grams, block_moments = grams[block:] - grams[:-block], moments[block:] - moments[:-block]
    random = np.random.default_rng(seed)
    drawn_grams, drawn_moments = np.empty((_DRAWS, k, k)), np.empty((_DRAWS, k))
    for draw in range(_DRAWS):
        starts = random.integers(0, n - block + 1, math.ceil(n / block))
        drawn_grams[draw] = block_grams[starts].sum(axis=0)
        drawn_moments[draw] = block_moments[starts].sum(axis=0)
    return solve_all(drawn_grams, drawn_moments)


def _interval(value: Array, drawn: Array, n_blocks: float, n_columns: int) -> tuple[Array, Array]:
    """Returns the 95 % interval of values by their draws, widened by what a sample of so few blocks lacks."""
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    widened = math.sqrt(n_blocks / max(n_blocks - n_columns, 1.0))
    return value + (low - value) * widened, value + (high - value) * widened
