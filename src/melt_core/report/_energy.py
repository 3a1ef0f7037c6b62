"""The report's energy section: what phases and tokens cost, power over time, and the modelled energy of ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melt_core.analysis.energy import EnergyReport, PhaseEnergy, energy_of, has_energy
from melt_core.analysis.energy_ops import OpEnergyReport, op_energy
from melt_core.errors import TraceError
from melt_core.report import human
from melt_core.report._charts import esc, kind_tag
from melt_core.report._lines import Band, Line, line_plot
from melt_core.report.energy_text import joules, watts
from melt_core.trace.format import ChunkKind
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_BAND_COLOURS = {"idle": 7, "prefill": 1, "decode": 2, "load": 4, "marker": 5}


def energy_body(trace: Trace) -> str:
    """Returns the section's contents (HTML); empty for a trace without readings of power or energy."""
    if not has_energy(trace):
        return ""
    try:
        report = energy_of(trace)
    except TraceError as error:
        return f"<p>{esc(error)}</p>"
    parts = [_table(report), _tokens(report), _power(trace, report), _ops(trace, report), _notes(report)]
    return "".join(parts)


def _table(report: EnergyReport) -> str:
    head = "".join(f'<th class="num">{name}</th>' for name in ("gross", "95 % interval", "net", "power", "time"))
    rows = "".join(_row(row) for row in (report.total, *report.phases))
    return (
        f'<div class="scroll"><table><thead><tr><th>phase</th>{head}<th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(row: PhaseEnergy) -> str:
    interval = human.MISSING if row.ci95_j is None else f"{joules(row.ci95_j[0])} to {joules(row.ci95_j[1])}"
    cells = (joules(row.gross_j), interval, joules(row.net_j), watts(row.mean_w), human.time_ns(row.wall_s * 1e9))
    numbers = "".join(f'<td class="num">{esc(cell)}</td>' for cell in cells)
    return f'<tr><td>{esc(row.phase)}</td>{numbers}<td class="text">{esc(row.reason or "")}</td></tr>'


def _tokens(report: EnergyReport) -> str:
    items = []
    for name, token in report.per_token.items():
        cost = token.reason or f"{joules(token.gross_j)} gross, {joules(token.net_j)} net"
        items.append(f"<dt>{esc(name.capitalize())}, per token</dt><dd>{esc(cost)}</dd>")
    return f"<br><dl>{''.join(items)}</dl><br>"


def _power(trace: Trace, report: EnergyReport) -> str:
    curve = report.curve
    if curve.is_counter:
        time_s = curve.reading_ns[1:] / NS_PER_S
        power = np.diff(curve.reading) / np.maximum(np.diff(curve.reading_ns), 1) * NS_PER_S
        power = np.where(curve.reading_is_unknown, np.nan, power)
    else:
        time_s, power = curve.reading_ns / NS_PER_S, curve.reading
    span = float(time_s[0]), float(time_s[-1])
    gap_s = 10 * curve.interval_s
    line = Line(curve.name, time_s, power, gap_s=gap_s)
    return line_plot("Power over time", [line], watts, span_s=span, bands=phase_bands(trace))


def phase_bands(trace: Trace) -> list[Band]:
    """Returns the phases as bands; of a run of very many only the first hundreds."""
    names = {1: "load", 3: "prefill", 4: "decode", 6: "idle", 7: "marker"}
    bands = []
    for row in trace.records(ChunkKind.PHASES)[:600]:
        name = names.get(int(row["phase"]))
        if name is not None:
            start = int(row["start_ns"])
            end = start + int(row["duration_ns"])
            bands.append(Band(start / NS_PER_S, end / NS_PER_S, name, _BAND_COLOURS[name]))
    return bands


def _ops(trace: Trace, report: EnergyReport) -> str:
    if not any(len(chunk) for chunk in trace.chunks(ChunkKind.OPS)):
        return ""
    try:
        found = op_energy(trace, report=report)
    except TraceError as error:
        return f'<p class="note">{esc(error)}</p>'
    title = f"<h3>By op type, modelled: least squares of power on the time that ops took{kind_tag('modelled')}</h3>"
    if found.rows is None:
        return f'{title}<p class="note">Not modelled: {esc(found.refusal)}</p>'
    return title + _op_table(found)


def _op_table(found: OpEnergyReport) -> str:
    rows = []
    for row in found.rows or ():
        interval = f"{joules(row.ci95_j[0])} to {joules(row.ci95_j[1])}"
        cells = (joules(row.gross_j), interval, human.percent(row.energy_share), watts(row.power_w))
        numbers = "".join(f'<td class="num">{esc(cell)}</td>' for cell in cells)
        rows.append(f"<tr><td>{esc(row.key)}</td>{numbers}</tr>")
    head = "".join(f'<th class="num">{name}</th>' for name in ("energy", "95 % interval", "share", "power"))
    return (
        f'<div class="scroll"><table><thead><tr><th>op type</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div><br>"
    )


def _notes(report: EnergyReport) -> str:
    rows = [("Source", f"{report.curve.name}: {report.curve.origin}")]
    if report.idle is not None:
        rows.append(("Idle power", f"{watts(report.idle.before_w)} before, {watts(report.idle.after_w)} after"))
    rows += [("Total", note) for note in report.total.notes]
    rows += [(f"Missing: {name}", why) for name, why in report.missing.items()]
    rows += [(f"Not taken: {one.source}", one.reason) for one in report.sources if one.reason is not None]
    rows += [("Warning", text) for text in dict.fromkeys(report.warnings)]
    return "<dl>" + "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in rows) + "</dl>"
