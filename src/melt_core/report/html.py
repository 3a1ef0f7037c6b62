"""The report: one HTML file that stands alone. No script, no reference to anything outside, readable on a phone.

melt.report(trace, "report.html")
melt.report([host, phone], "report.html")     # compared first, then each on its own
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melt_core.errors import InvalidArgumentError
from melt_core.report._charts import DEFINITIONS, esc
from melt_core.report._compare import comparison, told_apart
from melt_core.report._roofline_section import CHART_CSS, roofline_section
from melt_core.report._sections import Subject, trace_sections
from melt_core.report._style import CSS
from melt_core.trace.storage import written_atomically

if TYPE_CHECKING:
    from melt_core.analysis.roofline import Ceilings
    from melt_core.trace.trace import Trace

_METHOD = """
<details><summary>How these numbers were made</summary>
<p class="note">Every run goes through one procedure: load, warm up, tokenise, prefill, decode, unload. Times are of the
device's monotonic clock. Warm-up runs are recorded and left out of every figure here. A figure is the median over the
measured runs, with their IQR and number; the dots are the runs themselves, with the least and the greatest below.</p>
<dl>
<dt>measured</dt><dd>read from a clock or from the operating system</dd>
<dt>derived</dt><dd>arithmetic on measured numbers, or on shapes and types</dd>
<dt>modelled</dt><dd>a fit, with its interval</dd>
<dt>simulated</dt><dd>of the clock of the synthetic runtime: no time that passed</dd>
<dt>TTFT</dt><dd>from handing over the prompt to the first output token known: tokenise, prefill, sample</dd>
<dt>prefill tok/s</dt><dd>prompt tokens / wall time of the prefill evaluation, sampling left out</dd>
<dt>decode tok/s</dt><dd>(output tokens - 1) / (time of the last - time of the first)</dd>
<dt>ITL, TPOT</dt><dd>time between two consecutive output tokens; the mean of these over a run;
p50, p95 and p99 are of the ITLs of each run</dd>
<dt>op time</dt><dd>compute: start to end of the kernel on a thread; wait: from there to the end of the barrier. On the
main thread the ops of a graph follow each other, so their compute and wait add up to the graph's wall time</dd>
<dt>conservation</dt><dd>sum of the main thread's op times / wall time of the graph; at 100 % nothing is missing</dd>
<dt>overhead</dt><dd>the same steps with op recording on and off, interleaved in random order; the median ratio of their
rates, with a bootstrap 95 % interval. An interval that holds 0 means: no difference seen</dd>
<dt>bytes, FLOP</dt><dd>what a kernel must read and write once, from shapes, types and the buffer's layout; a
multiply and an add count two. "-": no formula for this op, which is not 0</dd>
</dl></details>
"""


def write(traces: Trace | Sequence[Trace], path: str | os.PathLike[str], *, ceilings: Ceilings | None = None) -> None:
    """Writes the report as one file; see `melt_core.report.report`."""
    listed = list(traces) if isinstance(traces, Sequence) else [traces]
    text = render(listed, ceilings=ceilings)
    with written_atomically(path, inputs=[trace.path for trace in listed]) as file:
        file.write(text.encode("utf-8", "replace"))


def render(traces: Trace | Sequence[Trace], *, ceilings: Ceilings | None = None) -> str:
    """Returns the report as HTML text. Raises: InvalidArgumentError if there is no trace."""
    listed = list(traces) if isinstance(traces, Sequence) else [traces]
    if not listed:
        raise InvalidArgumentError("a report needs at least one trace")
    subjects = told_apart([Subject.of(trace, number) for number, trace in enumerate(listed)])
    body = [comparison(subjects)] if len(subjects) > 1 else []
    for subject in subjects:
        body.append(trace_sections(subject, is_first=len(subjects) == 1))
        if ceilings is not None:
            body.append(roofline_section(subject.trace, ceilings))
    title = subjects[0].title if len(subjects) == 1 else ", ".join(subject.label for subject in subjects)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)} - melt report</title><style>{CSS}{CHART_CSS}</style></head>\n"
        f"<body>{DEFINITIONS}<main>{''.join(body)}<section>{_METHOD}</section>"
        "<footer>Made by melt_core from the trace alone. This file refers to nothing outside itself.</footer>"
        "</main></body></html>\n"
    )
