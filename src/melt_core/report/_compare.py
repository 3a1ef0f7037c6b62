"""Several traces side by side: their figures, their op types, and what else differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from melt_core.analysis.group import key_averages
from melt_core.analysis.stats import Stat
from melt_core.analysis.views import n_steps
from melt_core.report import human
from melt_core.report._charts import esc, kind_tag
from melt_core.report._sections import FIGURES, Subject, flatten, section
from melt_core.trace.format import Phase

_MAX_OP_TYPES = 12
_MAX_DIFFERENCES = 60


def told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Returns the subjects with labels that differ: the file's folder before its name, or else a number."""

    def is_unique(label: str, labels: Sequence[str]) -> bool:
        return labels.count(label) == 1

    stems = [subject.label for subject in subjects]
    places = ["/".join((PurePath(subject.trace.path or "").parent.name, subject.label)) for subject in subjects]
    return [
        subject
        if is_unique(subject.label, stems)
        else replace(subject, label=place if is_unique(place, places) else f"{number}: {subject.label}")
        for number, (subject, place) in enumerate(zip(subjects, places, strict=True), start=1)
    ]


def comparison(subjects: Sequence[Subject]) -> str:
    """Returns the opening of a report of several traces."""
    head = "".join(
        f'<th class="num">{esc(subject.label)}<span class="below">{esc(subject.title)}</span></th>'
        for subject in subjects
    )
    title = (
        '<header class="trace"><div class="kicker">melt report</div>'
        f"<h1>{len(subjects)} traces, side by side</h1>"
        f'<div class="sub">{esc(", ".join(subject.label for subject in subjects))}</div></header>'
    )
    return title + _figures(subjects, head) + _op_types(subjects, head) + _differences(subjects, head)


def _table(head: str, rows: Sequence[str], first: str) -> str:
    body = f"<thead><tr><th>{esc(first)}</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="compared">{body}</table></div>'


def _cell(value: str, ratio: float | None, meter: float | None = None) -> str:
    """Returns a number, its ratio to the first trace, and a bar of 0..1 of the row's width below."""
    delta = '<span class="delta"></span>' if ratio is None else f'<span class="delta">x {ratio:.2f}</span>'
    bar = (
        ""
        if meter is None
        else f'<span class="meter"><i style="width:{100 * min(max(meter, 0.0), 1.0):.1f}%"></i></span>'
    )
    return f'<td class="num">{esc(value)}{delta}{bar}</td>'


def _ratio(value: float | None, first: float | None) -> float | None:
    return value / first if value is not None and first else None


def _kind(subjects: Sequence[Subject], kind: str) -> str:
    return ", ".join(dict.fromkeys(subject.kind(kind) for subject in subjects))


def _figures(subjects: Sequence[Subject], head: str) -> str:
    rows = []
    for label, name, shown, kind in FIGURES:
        stats: list[Stat | None] = [getattr(subject.summary, name) for subject in subjects]
        medians = [None if stat is None else stat.median for stat in stats]
        cells = []
        for number, median in enumerate(medians):
            cells.append(_cell(shown(median), _ratio(median, medians[0]) if number else None))
        rows.append(f"<tr><td>{esc(label)}{kind_tag(_kind(subjects, kind))}</td>{''.join(cells)}</tr>")
    peaks = [subject.summary.peak_rss_bytes for subject in subjects]
    cells = [
        _cell(human.size_bytes(peak), _ratio(peak, peaks[0]) if number else None) for number, peak in enumerate(peaks)
    ]
    rows.append(f"<tr><td>Peak memory{kind_tag('measured')}</td>{''.join(cells)}</tr>")
    counts = "".join(_cell(str(subject.summary.n_runs), None) for subject in subjects)
    rows.append(f"<tr><td>Measured runs</td>{counts}</tr>")
    note = "Medians over the measured runs; with each, its ratio to the first trace. The spread is further down."
    return section("Key figures", note, _table(head, rows, "figure"))


def _op_types(subjects: Sequence[Subject], head: str) -> str:
    times: list[dict[str, float]] = []
    for subject in subjects:
        steps = max(n_steps(subject.trace, Phase.DECODE), 1)
        table = key_averages(subject.trace, phase="decode")
        times.append({row.key or "other": row.wall_ns / steps for row in table})
    ranked = sorted(
        {key for found in times for key in found}, key=lambda key: -max(found.get(key, 0.0) for found in times)
    )
    if not ranked:
        return ""
    longest = max(found.get(ranked[0], 0.0) for found in times) or 1.0
    rows = []
    for key in ranked[:_MAX_OP_TYPES]:
        first = times[0].get(key)
        cells = [
            _cell(
                human.time_ns(found.get(key)),
                _ratio(found.get(key), first) if number else None,
                found.get(key, 0.0) / longest,
            )
            for number, found in enumerate(times)
        ]
        rows.append(f"<tr><td>{esc(key)}</td>{''.join(cells)}</tr>")
    note = "Main-thread time of one decode step; bars are parts of the longest time in the table."
    kind = _kind(subjects, "derived")
    return section("Op types, per decoded token", note, _table(head, rows, "op type"), kind)


def _differences(subjects: Sequence[Subject], head: str) -> str:
    found = [dict(flatten(subject.trace.metadata)) for subject in subjects]
    names = list(dict.fromkeys(name for values in found for name in values))
    rows = []
    for name in names:
        values = [values.get(name) for values in found]
        if len(set(values)) > 1:
            cells = "".join(f'<td class="text">{esc(value)}</td>' for value in values)
            rows.append(f'<tr><td class="name"><code>{esc(name)}</code></td>{cells}</tr>')
    if not rows:
        return section("What else differs", "The metadata of all traces is the same.", "")
    note = "Metadata that is not the same everywhere: any of it may be why the numbers differ."
    return section(
        "What else differs", note, _table(head.replace(' class="num"', ""), rows[:_MAX_DIFFERENCES], "metadata")
    )
