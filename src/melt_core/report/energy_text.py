"""Energy as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melt_core.report import human
from melt_core.report.text import WIDTH

if TYPE_CHECKING:
    from melt_core.analysis.battery import BatteryView, PaperFigures
    from melt_core.analysis.energy import EnergyReport, PhaseEnergy
    from melt_core.analysis.energy_ops import OpEnergyReport
    from melt_core.analysis.stats import Stat
    from melt_core.analysis.sustained import Sustained

_LABEL = 20


def joules(value: float | None) -> str:
    """Returns "12.3 J", or mJ and kJ."""
    if value is None:
        return human.MISSING
    for size, unit in ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")):
        if abs(value) >= size * 0.9995 or unit == "mJ":
            return f"{human.significant(value / size)} {unit}"
    return human.MISSING


def watts(value: float | None) -> str:
    """Returns "4.56 W"."""
    return human.MISSING if value is None else f"{human.significant(value)} W"


def plus_minus(value: float | None, interval: tuple[float, float] | None) -> str:
    """Returns half the width of an interval, relative: "0.4 %"."""
    if value is None or interval is None or not value:
        return human.MISSING
    return human.percent((interval[1] - interval[0]) / 2 / abs(value))


def format_energy(report: EnergyReport) -> str:
    """Returns the energy of a trace: total, phases, tokens, source, and what was refused and why."""
    head = f"{'measured':<10}{'gross':>10}{'+- 95 %':>9}{'net':>10}{'power':>9}{'time':>9}  windows"
    lines = [head, *(_row(row) for row in (report.total, *report.phases)), ""]
    for name, token in report.per_token.items():
        tokens = "token" if token.n_tok == 1 else "tokens"
        cost = f"{joules(token.gross_j)} gross, {joules(token.net_j)} net ({token.n_tok} {tokens})"
        lines.append(_line(f"{name}, per token", cost if token.gross_j is not None else f"- {token.reason}"))
    idle = report.idle
    if idle is not None:
        sides = f"{watts(idle.before_w)} before, {watts(idle.after_w)} after"
        lines.append(_line("idle power", f"{watts(idle.mean_w)} ({sides})"))
    lines.append(_line("source", _source(report)))
    for row in (report.total, *report.phases):
        if row.reason is not None:
            lines.append(_line(f"refused: {row.phase}", row.reason))
        lines += [_line(f"note: {row.phase}", note) for note in row.notes if row is report.total]
    lines += [_line("missing", f"{name}: {why}") for name, why in report.missing.items()]
    for other in report.sources:
        if other.source != report.curve.name and other.reason is not None:
            lines.append(_line("not taken", f"{other.source}: {other.reason}"))
    lines += textwrap_warnings(report.warnings)
    return "\n".join(lines)


def _row(row: PhaseEnergy) -> str:
    cells = f"{row.phase:<10}{joules(row.gross_j):>10}{plus_minus(row.gross_j, row.ci95_j):>9}{joules(row.net_j):>10}"
    return f"{cells}{watts(row.mean_w):>9}{human.time_ns(row.wall_s * 1e9):>9}  {row.n_windows}"


def _source(report: EnergyReport) -> str:
    chosen = next((one for one in report.sources if one.source == report.curve.name), None)
    if chosen is None or chosen.interval_s is None or chosen.shortest_window_s is None:
        return report.curve.name
    return (
        f"{chosen.source} ({chosen.origin}): a reading every {human.time_ns(chosen.interval_s * 1e9)}; shortest window "
        f"for {report.error_ratio:.0%}: {human.time_ns(chosen.shortest_window_s * 1e9)}"
    )


def format_op_energy(report: OpEnergyReport, *, max_rows: int | None = None) -> str:
    """Returns the modelled energy of groups of ops, or why there is none."""
    if report.rows is None:
        return _line("not modelled", f"energy by {report.by}: {report.refusal}")
    lines = [f"{'modelled, by ' + report.by:<24}{'energy':>10}{'95 % interval':>20}{'share':>9}{'power':>9}"]
    for row in report.rows[:max_rows]:
        low, high = row.ci95_j
        interval = f"{joules(low)} to {joules(high)}"
        key = human.plain(row.key)[:23]
        lines.append(
            f"{key:<24}{joules(row.gross_j):>10}{interval:>20}{human.percent(row.energy_share):>9}"
            f"{watts(row.power_w):>9}"
        )
    text = f"{report.n_readings} readings of {report.source}; modelled in all {joules(report.modelled_j)}"
    if report.measured_j is not None:
        text += f", measured {joules(report.measured_j)}"
    return "\n".join([*lines, *textwrap.wrap(text, WIDTH)])


def format_battery(view: BatteryView) -> str:
    """Returns what a prompt costs of a battery."""
    name = f"{human.significant(view.capacity_mah)} mAh, {human.significant(view.nominal_v)} V"
    if view.prompt_mah is None:
        return _line("battery", f"{name}: {view.reason}")
    rows = [
        ("battery", f"{name} (derived; gross energy, nothing else drawing)"),
        ("a prompt", f"{human.significant(view.prompt_mah)} mAh, {_percent(view.charge_ratio)} of the charge"),
        ("prompts per charge", _with_interval(view)),
        ("continuous use", f"{human.plain(view.continuous_hours)} hours"),
    ]
    return "\n".join(_line(name, text) for name, text in rows)


def _percent(ratio: float | None) -> str:
    return human.MISSING if ratio is None else f"{human.significant(ratio * 100)} %"


def _with_interval(view: BatteryView) -> str:
    if view.prompts_per_charge_ci95 is None or view.prompts_per_charge is None:
        return human.MISSING
    low, high = view.prompts_per_charge_ci95
    return f"{view.prompts_per_charge:.0f} (95 % CI {low:.0f} to {high:.0f})"


def format_figures(figures: PaperFigures) -> str:
    """Returns the figures of the MELT paper as a table."""
    rows = [
        ("model", ", ".join(human.plain(part) for part in (figures.model, figures.quantization) if part)),
        ("runtime, device", ", ".join(human.plain(part) for part in (figures.runtime, figures.device) if part)),
        ("prefill, decode", f"{human.rate(figures.prefill_tok_s)}, {human.rate(figures.decode_tok_s)}"),
        ("TTFT", human.time_ms(figures.ttft_ms)),
        ("energy per token", f"{_mwh(figures.token_mwh)} (as in the paper: prefill and decode / output tokens)"),
        ("of prefill, decode", f"{_mwh(figures.prefill_token_mwh)}, {_mwh(figures.decode_token_mwh)} per own token"),
        ("charge per token", _unit(figures.token_mah, "mAh")),
        ("prompts per charge", _unit(figures.prompts_per_charge, "")),
        ("power", f"{watts(figures.sustained_w)} over the runs, {watts(figures.peak_w)} at most"),
        ("peak memory", human.size_bytes(figures.peak_memory_bytes)),
        ("peak temperature", _unit(figures.peak_temperature_c, "degC")),
        ("energy source", human.plain(figures.source)),
    ]
    lines = [_line(name, text or human.MISSING) for name, text in rows]
    return "\n".join(lines + [_line("missing", f"{name}: {why}") for name, why in figures.missing.items()])


def _mwh(value: float | None) -> str:
    return _unit(value, "mWh")


def _unit(value: float | None, unit: str) -> str:
    return human.MISSING if value is None else f"{human.significant(value)} {unit}".rstrip()


def textwrap_warnings(warnings: Sequence[str]) -> list[str]:
    """Returns warnings, each wrapped."""
    lines: list[str] = []
    for warning in dict.fromkeys(warnings):
        lines += textwrap.wrap(f"warning: {human.plain(warning)}", WIDTH, subsequent_indent="         ")
    return lines


def _line(label: str, value: str) -> str:
    wrapped = textwrap.wrap(human.plain(value), WIDTH - _LABEL) or [""]
    return "\n".join([f"{label[: _LABEL - 1]:<{_LABEL}}{wrapped[0]}", *(" " * _LABEL + rest for rest in wrapped[1:])])


def sustained_rows(found: Sustained) -> list[tuple[str, str]]:
    """Returns the figures of a sustained run as (name, words)."""

    def rate(stat: Stat | None, name: str) -> str:
        if stat is None:
            return f"- {found.missing.get(name, '')}"
        iqr = stat.iqr if stat.iqr > 1e-6 * stat.median else 0.0  # less is what rounding leaves
        return f"{human.rate(stat.median)} (IQR {human.significant(iqr)}, {stat.n} half seconds)"

    def seconds(value: float | None, name: str) -> str:
        return human.time_ns(value * 1e9) if value is not None else f"- {found.missing.get(name, '')}"

    settled = {True: "settled", False: "not settled yet", None: "whether it settled is not known: no temperature"}
    rows = [
        ("ran", f"{found.n_runs} prompts, {found.n_tokens} decode tokens in {human.time_ns(found.active_s * 1e9)}"),
        ("cold", rate(found.cold_tok_s, "cold_tok_s")),
        ("warm", rate(found.warm_tok_s, "warm_tok_s")),
        ("throttled", rate(found.throttled_tok_s, "throttled_tok_s")),
        ("sustained", f"{human.rate(found.sustained_tok_s)} over the last quarter; {settled[found.settled]}"),
        ("time to throttle", seconds(found.time_to_throttle_s, "time_to_throttle_s")),
        ("recovery", seconds(found.recovery_s, "recovery_s")),
    ]
    for step in found.steps:
        words = f"{human.rate(step.from_tok_s)} to {human.rate(step.to_tok_s)}"
        rows.append((f"step at {human.time_ns(step.time_s * 1e9)}", words))
    if found.peak_temperature_c is not None:
        rows.append(("peak temperature", f"{found.peak_temperature_c:.1f} degC"))
    if found.mean_power_w is not None:
        rows.append(("mean power", watts(found.mean_power_w)))
    if found.n_segments > 1:
        rows.append(("sittings", f"{found.n_segments}; pauses between them are in the time axis, not in the figures"))
    if found.stopped_by is not None:
        rows.append(("ended by", found.stopped_by))
    return rows


def format_sustained(found: Sustained) -> str:
    """Returns the figures of a sustained run."""
    lines = [_line(name, text) for name, text in sustained_rows(found)]
    shown = ("temperature", "frequency", "throttle", "mean_power_w")
    lines += [_line("missing", f"{name}: {why}") for name, why in found.missing.items() if name in shown]
    return "\n".join(lines)
