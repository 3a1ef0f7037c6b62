"""Two traces of the same tokens side by side: speed, time per module, what the weights take, agreement of the logits.

Two runtimes can be compared where both evaluated the same token ids: the same prompt, and the same output, which is
replayed (teacher forcing) because their greedy outputs part sooner or later. See docs/compare.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from melt_core.analysis.group import key_averages
from melt_core.analysis.stats import Stat
from melt_core.analysis.summary import Summary, measured_runs
from melt_core.analysis.views import n_steps
from melt_core.errors import InvalidArgumentError
from melt_core.trace.format import ChunkKind, Phase
from melt_core.trace.metadata import text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

#: Metadata that is about the one run rather than about what ran on what.
_LEFT_OUT = ("logits", "clock", "sensors", "memory", "overhead_notes", "warnings", "agent")
_FIGURES = ("ttft_ms", "prefill_tok_s", "decode_tok_s", "load_ms")


@dataclass(frozen=True)
class Side:
    """One of the two traces. What is missing is None."""

    label: str
    runtime: str | None
    model: str | None
    quantization: str | None
    ttft_ms: float | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    load_ms: float | None
    peak_rss_bytes: float | None
    weights_bytes: int | None
    n_params: int | None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits that the weights take per parameter, scales included."""
        return None if not self.weights_bytes or not self.n_params else 8 * self.weights_bytes / self.n_params


@dataclass(frozen=True)
class ModuleTimes:
    """Main-thread time of one module per step of a phase, in each trace; None where it has no such op."""

    phase: str
    module: str
    first_ns: float | None
    second_ns: float | None


@dataclass(frozen=True)
class LogitAgreement:
    """How far the two models agree on the same tokens; None where missing, with the reason.

    Attributes:
        same_top: Share of the steps whose highest logit is of the same token.
        top_overlap: Mean share of the highest ten tokens that both have.
        logprob_difference: Mean absolute difference of the replayed token's log-probability.
        logprob_difference_max: The largest.
        logit_difference: Largest difference of a logit that both list, after each side's mean over those is taken
            off, relative to the largest magnitude among them.
    """

    n_steps: int
    same_top: float | None
    top_overlap: float | None
    logprob_difference: float | None
    logprob_difference_max: float | None
    logit_difference: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    first: Side
    second: Side
    modules: tuple[ModuleTimes, ...]
    logits: LogitAgreement
    differences: tuple[tuple[str, str, str], ...]
    mismatches: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        values = asdict(self)
        for name, side in (("first", self.first), ("second", self.second)):
            values[name]["bits_per_weight"] = side.bits_per_weight
        return values


def compare(
    first: Trace, second: Trace, *, labels: tuple[str, str] = ("A", "B"), despite_mismatch: bool = False
) -> Comparison:
    """Returns two traces side by side.

    Args:
        first: The one that ratios refer to.
        second: The other.
        labels: What to call them.
        despite_mismatch: Compare although something differs that must not; it is listed all the same.

    Raises:
        InvalidArgumentError: Tokens, threads or machine differ; the message says what to do.
    """
    mismatches = tuple(_mismatches(first, second))
    if mismatches and not despite_mismatch:
        raise InvalidArgumentError(f"these traces cannot be compared: {'; '.join(mismatches)}")
    return Comparison(
        first=_side(first, labels[0]),
        second=_side(second, labels[1]),
        modules=tuple(_module_times(first, second)),
        logits=logit_agreement(first.metadata.get("logits"), second.metadata.get("logits")),
        differences=tuple(_differences(first.metadata, second.metadata)),
        mismatches=mismatches,
    )


def _mismatches(first: Trace, second: Trace) -> Iterator[str]:
    if not len(measured_runs(first)) or not len(measured_runs(second)):
        yield "one of them has no measured run"
        return
    if _prompt_ids(first) != _prompt_ids(second):
        yield "they evaluated different prompts: record the second with --replay FIRST.melt"
    outputs = first.summary().output_token_ids, second.summary().output_token_ids
    if outputs[0] != outputs[1]:
        yield "they decoded different tokens: record the second with --replay FIRST.melt"
    threads = first.summary().n_threads, second.summary().n_threads
    if threads[0] != threads[1]:
        yield f"they ran with {threads[0]} and {threads[1]} threads"
    devices = [text(trace.metadata, "device", "cpu_model") for trace in (first, second)]
    if devices[0] != devices[1]:
        yield f"they ran on different machines: {devices[0]} and {devices[1]}"


def _prompt_ids(trace: Trace) -> tuple[int, ...]:
    prompts = trace.records(ChunkKind.PROMPTS)
    run = measured_runs(trace)[0]
    return tuple(prompts["token_id"][prompts["run"] == run].tolist())


def _side(trace: Trace, label: str) -> Side:
    summary: Summary = trace.summary()
    model = trace.metadata.get("model", {})
    stats: dict[str, Stat | None] = {name: getattr(summary, name) for name in _FIGURES}
    figures = {name: None if stat is None else stat.median for name, stat in stats.items()}
    return Side(
        label=label,
        runtime=" ".join(part for part in (summary.runtime, summary.runtime_version) if part) or None,
        model=summary.model,
        quantization=summary.quantization,
        **figures,
        peak_rss_bytes=summary.peak_rss_bytes,
        weights_bytes=_count(model.get("size_bytes")),
        n_params=_count(model.get("n_params")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _module_times(first: Trace, second: Trace) -> Iterator[ModuleTimes]:
    for phase in (Phase.PREFILL, Phase.DECODE):
        name = phase.name.lower()
        times = []
        for trace in (first, second):
            steps = n_steps(trace, phase)
            rows = key_averages(trace, group_by="module", phase=name)
            times.append({str(row.key or "other"): row.wall_ns / steps for row in rows} if steps else {})
        modules = sorted({*times[0], *times[1]}, key=lambda module: -max(side.get(module, 0.0) for side in times))
        for module in modules:
            yield ModuleTimes(name, module, times[0].get(module), times[1].get(module))


def logit_agreement(first: Any, second: Any) -> LogitAgreement:
    """Returns how far two traces' ``logits`` metadata agree. Never raises for odd contents."""
    for logits in (first, second):
        if not isinstance(logits, dict):
            return _no_agreement("one of the traces holds no logits: record both with --logits")
        if "missing" in logits:
            return _no_agreement(str(logits["missing"]))
    try:
        tokens = [list(logits["token_ids"]) for logits in (first, second)]
        if tokens[0] != tokens[1] or not tokens[0]:
            return _no_agreement("the logits are of different tokens")
        return _agreement(first, second)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return _no_agreement(f"the logits of a trace are damaged: {error!r}")


def _no_agreement(reason: str) -> LogitAgreement:
    return LogitAgreement(0, None, None, None, None, None, reason)


def _agreement(first: Mapping[str, Any], second: Mapping[str, Any]) -> LogitAgreement:
    distance = np.abs(np.asarray(first["logprobs"], float) - np.asarray(second["logprobs"], float))
    same, overlaps, relative = [], [], []
    columns = (first["top_ids"], second["top_ids"], first["top_logits"], second["top_logits"])
    for ids_a, ids_b, logits_a, logits_b in zip(*columns, strict=True):
        same.append(ids_a[0] == ids_b[0])
        a, b = dict(zip(ids_a, logits_a, strict=True)), dict(zip(ids_b, logits_b, strict=True))
        shared = [token for token in ids_a if token in b]
        overlaps.append(len(shared) / max(len(ids_a), 1))
        if len(shared) > 1:
            left, right = (np.array([side[token] for token in shared], float) for side in (a, b))
            largest = float(np.abs(left).max())
            shifted = np.abs((left - left.mean()) - (right - right.mean()))
            relative.append(float(shifted.max()) / largest if largest > 0 else float("nan"))
    return LogitAgreement(
        n_steps=len(same),
        same_top=float(np.mean(same)),
        top_overlap=float(np.mean(overlaps)),
        logprob_difference=float(distance.mean()),
        logprob_difference_max=float(distance.max()),
        logit_difference=max(relative) if relative else None,
    )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    left, right = dict(_flat(first)), dict(_flat(second))
    for name in dict.fromkeys([*left, *right]):
        values = left.get(name, "-"), right.get(name, "-")
        if values[0] != values[1]:
            yield name, *values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if not prefix and key in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)
