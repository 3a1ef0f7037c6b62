"""A comparison of two traces as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from melt_core.analysis.compare import Comparison, LogitAgreement, Side
from melt_core.report import human
from melt_core.report.text import WIDTH

_MAX_DIFFERENCES = 30
_NAME_WIDTH, _VALUE_WIDTH = 26, 24


def format_comparison(comparison: Comparison) -> str:
    """Returns the comparison as lines of text."""
    lines = [line for mismatch in comparison.mismatches for line in _wrapped(f"warning: {human.plain(mismatch)}", 9)]
    lines += _sides(comparison.first, comparison.second)
    lines += _modules(comparison)
    lines += ["", *_logits(comparison.logits)]
    lines += _differences(comparison)
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _ratio(first: float | None, second: float | None) -> str:
    return "-" if not first or second is None else f"x {second / first:.2f}"


def _sides(first: Side, second: Side) -> Iterator[str]:
    yield f"{'':<20} {first.label[-24:]:>24} {second.label[-24:]:>24} {'':>8}"
    for title, name in (("runtime", "runtime"), ("model", "model"), ("quantization", "quantization")):
        values = [str(getattr(side, name) or "-")[-24:] for side in (first, second)]
        yield f"{title:<20} {values[0]:>24} {values[1]:>24}"
    rows = (
        ("TTFT", "ttft_ms", human.time_ms),
        ("prefill", "prefill_tok_s", human.rate),
        ("decode", "decode_tok_s", human.rate),
        ("load", "load_ms", human.time_ms),
        ("peak memory", "peak_rss_bytes", human.size_bytes),
        ("weights", "weights_bytes", human.size_bytes),
        ("bits per weight", "bits_per_weight", lambda bits: "-" if bits is None else f"{bits:.2f}"),
    )
    for title, name, shown in rows:
        a, b = getattr(first, name), getattr(second, name)
        yield f"{title:<20} {shown(a):>24} {shown(b):>24} {_ratio(a, b):>8}"


def _modules(comparison: Comparison) -> Iterator[str]:
    phase = ""
    for row in comparison.modules:
        if row.phase != phase:
            phase = row.phase
            yield ""
            yield f"{phase}, time per step on the main thread"
        shown = [human.time_ns(value) for value in (row.first_ns, row.second_ns)]
        yield f"  {row.module:<18} {shown[0]:>24} {shown[1]:>24} {_ratio(row.first_ns, row.second_ns):>8}"


def _logits(logits: LogitAgreement) -> Iterator[str]:
    if logits.reason is not None:
        yield from _wrapped(f"logits: not compared: {human.plain(logits.reason)}", 2)
        return
    assert logits.same_top is not None
    assert logits.top_overlap is not None
    yield f"logits, {logits.n_steps} steps of the same tokens"
    yield f"  same highest token             {100 * logits.same_top:6.1f} % of the steps"
    yield f"  highest ten in common          {100 * logits.top_overlap:6.1f} %"
    yield (
        f"  log-probability of the token   {logits.logprob_difference:.3g} apart (mean), "
        f"{logits.logprob_difference_max:.3g} (most)"
    )
    if logits.logit_difference is not None:
        yield f"  logits in common               {logits.logit_difference:.3g} apart (most, relative)"


def _differences(comparison: Comparison) -> Iterator[str]:
    if not comparison.differences:
        return
    yield ""
    yield "what else differs"
    for name, first, second in comparison.differences[:_MAX_DIFFERENCES]:
        values = " | ".join(_cut(value, _VALUE_WIDTH) for value in (first, second))
        yield f"  {_cut(name, _NAME_WIDTH):<{_NAME_WIDTH}} {values}"
    if len(comparison.differences) > _MAX_DIFFERENCES:
        yield f"  ... {len(comparison.differences) - _MAX_DIFFERENCES} more: --json shows all"
