"""The roofline as a section of the report: the chart of both phases, and a table of what binds which op type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt_core.analysis.mbu import mbu_of
from melt_core.analysis.roofline import PHASES, Roofline, roofline
from melt_core.report import human
from melt_core.report._charts import esc
from melt_core.report._roofline_chart import CHART_CSS as CHART_CSS
from melt_core.report._roofline_chart import can_draw, inline, left_out
from melt_core.report._sections import section
from melt_core.report.roofline_text import bound_text, mbu_text, roofs_text

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Ceilings, RooflineRow
    from melt_core.trace.trace import Trace

_MAX_ROWS = 8
_HEADINGS = ("share", "of ceiling", "bound by", "bytes/s", "FLOP/s", "FLOP/byte")


def roofline_section(trace: Trace, ceilings: Ceilings) -> str:
    """Returns the section; an empty text where the trace has no ops with a formula."""
    found = [roofline(trace, ceilings, phase=phase) for phase in PHASES]
    if not can_draw(found):
        return ""
    facts = [bound_text(each) for each in found if each.rows] + [mbu_text(mbu_of(trace, ceilings))]
    facts += [f"Roofs in {each.phase}: {roofs_text(each)}" for each in found if each.rows]
    lines = "".join(f"<li>{esc(fact)}</li>" for fact in facts)
    legend = (
        '<div class="legend"><span><i class="swatch" style="background:var(--c1)"></i>prefill</span>'
        '<span><i class="swatch" style="background:var(--c0)"></i>decode</span>'
        "<span>the area of a bubble is its share of the phase's op time; point at one for its figures</span></div>"
    )
    note = (
        "Each op type against what this machine can do at best. Left of the ridge, where slope and level meet, reading "
        f"binds; right of it, arithmetic. Ceilings: {ceilings.describe()}."
    )
    absent = left_out(found)
    rest = f'<p class="note">Not drawn, without FLOPs or a formula: {esc(", ".join(absent))}.</p>' if absent else ""
    warnings = [warning for each in found for warning in each.warnings]
    doubts = "".join(f'<p class="note">{esc(warning)}</p>' for warning in dict.fromkeys(warnings))
    tables = "".join(_table(each) for each in found if each.rows)
    body = f"<ul>{lines}</ul>{inline(found)}{legend}{rest}{doubts}{tables}"
    return section("How near to the machine's ceilings?", note, body, "derived")


def _table(found: Roofline) -> str:
    head = "<th>op type</th>" + "".join(f'<th class="num">{name}</th>' for name in _HEADINGS)
    rows = "".join(_row(row) for row in found.rows[:_MAX_ROWS])
    return (
        f'<br><div><h3>{found.phase.capitalize()}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _row(row: RooflineRow) -> str:
    intensity = row.intensity_flop_per_byte
    rate = human.size_bytes(row.bytes_per_s)
    values = (
        human.percent(row.share),
        human.percent(row.ceiling_ratio),
        row.bound or row.reason,
        rate if rate == human.MISSING else f"{rate}/s",
        human.count(row.flop_per_s),
        human.MISSING if intensity is None else human.significant(intensity, 2),
    )
    cells = "".join(f'<td class="num">{esc(value)}</td>' for value in values)
    return f"<tr><td>{esc(row.key or 'other')}</td>{cells}</tr>"
