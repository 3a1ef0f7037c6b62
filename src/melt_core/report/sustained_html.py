"""The report of a sustained run: one HTML file over all its sittings, without script or outside references."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melt_core.report._charts import DEFINITIONS, esc
from melt_core.report._energy import energy_body
from melt_core.report._sections import section
from melt_core.report._style import CSS
from melt_core.report._thermal import figures_list, plots
from melt_core.trace.metadata import text
from melt_core.trace.storage import written_atomically

if TYPE_CHECKING:
    from melt_core.analysis.sustained import Sustained
    from melt_core.trace.trace import Trace


def write_sustained(traces: Sequence[Trace], found: Sustained, path: str | os.PathLike[str]) -> None:
    """Writes the report.

    Args:
        traces: One for each sitting.
        found: What `sustained` gave for them.
        path: The file to write, whole or not at all.

    Raises:
        StorageError: if the file cannot be written.
    """
    model = text(traces[0].metadata, "model", "name") or "sustained run"
    device = text(traces[0].metadata, "device", "cpu_model") or "unknown device"
    note = (
        "Each token is tagged by what was read beside it. Dashed: where the rate steps. Shaded: throttled, warm. "
        "Measured: power, temperature and clocks. Derived: the rates."
    )
    parts = [section("What it keeps up", note, figures_list(found) + plots(traces, found))]
    for number, trace in enumerate(traces, start=1):
        body = energy_body(trace)
        if body:
            title = "Energy" if len(traces) == 1 else f"Energy of sitting {number}"
            note = "Of the runs of this trace together. Net, which is derived: idle power taken off."
            parts.append(section(title, note, body, "measured"))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(model)} - sustained</title><style>{CSS}</style></head>\n"
        f'<body>{DEFINITIONS}<main><header class="trace"><div class="kicker">melt sustain</div><h1>{esc(model)}</h1>'
        f'<div class="sub">{esc(device)}</div></header>{"".join(parts)}'
        "<footer>Made by melt_core from the traces alone. This file refers to nothing outside itself.</footer>"
        "</main></body></html>\n"
    )
    with written_atomically(path) as file:
        file.write(page.encode("utf-8", "replace"))
