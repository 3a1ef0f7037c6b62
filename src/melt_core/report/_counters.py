"""The report's counter section: what level counters counted, by op type, and what was absent with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt_core.analysis.counters import counters_of, missing_lines, with_counters
from melt_core.analysis.group import key_averages
from melt_core.report import human
from melt_core.report._charts import esc

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_MAX_ROWS = 12


def counters_body(trace: Trace) -> str:
    """Returns the section's contents (HTML); empty for a trace without level counters."""
    counters = counters_of(trace)
    if counters is None:
        return ""
    absent = "".join(f"<dt>Absent</dt><dd>{esc(line)}</dd>" for line in missing_lines(trace))
    absent = f"<dl>{absent}</dl>" if absent else ""
    if not counters.phases:
        return absent
    table = with_counters(trace, key_averages(trace))
    columns = [name for name in table.columns if name not in ("key", "wall_ns")]
    head = "".join(f'<th class="num">{esc(name)}</th>' for name in ("time", *columns))
    rows = []
    for row in table.head(_MAX_ROWS):
        numbers = [human.time_ns(row.wall_ns), *(human.count(getattr(row, name)) for name in columns)]
        cells = "".join(f'<td class="num">{esc(number)}</td>' for number in numbers)
        rows.append(f"<tr><td>{esc(row.key or 'other')}</td>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th>op type</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{absent}"
    )
