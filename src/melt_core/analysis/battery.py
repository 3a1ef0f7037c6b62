"""What a prompt costs of a battery, and the figures of the MELT paper for any trace.

    battery = Battery.parse("4000mAh,3.85V")
    battery_view(energy_of(trace), battery).prompts_per_charge

All of it is derived from measured energy: a battery's charge is taken as capacity x nominal voltage, and what the
device draws beside the runs as nothing. So prompts per charge is an upper bound of what a user sees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melt_core.analysis.energy import EnergyReport
from melt_core.analysis.samples import series_of
from melt_core.analysis.summary import summarize
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

J_PER_WH: Final = 3600.0
J_PER_MWH: Final = 3.6
_SPEC: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(mAh|Ah)\s*,\s*([0-9]+(?:\.[0-9]+)?)\s*V\s*", re.IGNORECASE)
#: Where a device is touched, best first.
_SKIN: Final = ("skin", "battery", "soc")


@dataclass(frozen=True)
class Battery:
    """A battery by what is printed on it."""

    capacity_ah: float
    nominal_v: float

    @staticmethod
    def parse(text: str) -> Battery:
        """Reads "4000mAh,3.85V".

        Raises:
            InvalidArgumentError: It is not of that form, or no battery's.
        """
        found = _SPEC.fullmatch(text)
        if found is None:
            raise InvalidArgumentError(f"a battery of {text!r}: write capacity and voltage as 4000mAh,3.85V")
        capacity_ah = float(found[1]) * (1e-3 if found[2].lower() == "mah" else 1.0)
        nominal_v = float(found[3])
        if not 0 < capacity_ah <= 1000 or not 1 <= nominal_v <= 100:
            raise InvalidArgumentError(f"a battery of {text!r}: capacity or voltage is out of range")
        return Battery(capacity_ah, nominal_v)

    @property
    def energy_j(self) -> float:
        """What a full charge holds."""
        return self.capacity_ah * self.nominal_v * J_PER_WH


@dataclass(frozen=True)
class BatteryView:
    """A prompt (one measured run: prefill and decode) against a battery. None where the energy is not known."""

    capacity_mah: float
    nominal_v: float
    prompt_j: float | None
    prompt_mah: float | None
    charge_ratio: float | None
    prompts_per_charge: float | None
    prompts_per_charge_ci95: tuple[float, float] | None
    continuous_hours: float | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the view ready for JSON."""
        return {"kind": "derived", **asdict(self)}


def battery_view(report: EnergyReport, battery: Battery) -> BatteryView:
    """Returns what the trace's prompts cost of a battery; gross, as a battery pays for idling too."""
    total = report.total
    capacity_mah = battery.capacity_ah * 1e3
    n_prompts = len(report.runs)
    if total.gross_j is None or total.ci95_j is None or total.mean_w is None or not n_prompts:
        return BatteryView(capacity_mah, battery.nominal_v, None, None, None, None, None, None, total.reason)
    prompt_j = total.gross_j / n_prompts
    low, high = (battery.energy_j / max(bound / n_prompts, 1e-12) for bound in reversed(total.ci95_j))
    return BatteryView(
        capacity_mah=capacity_mah,
        nominal_v=battery.nominal_v,
        prompt_j=prompt_j,
        prompt_mah=prompt_j / battery.nominal_v / J_PER_WH * 1e3,
        charge_ratio=prompt_j / battery.energy_j,
        prompts_per_charge=battery.energy_j / prompt_j,
        prompts_per_charge_ci95=(low, high),
        continuous_hours=battery.energy_j / total.mean_w / J_PER_WH,
    )


@dataclass(frozen=True)
class PaperFigures:
    """The figures that the MELT paper gives for a model on a device, for one trace. None: `missing` says why.

    Attributes:
        token_mwh: As the paper has it: all of a prompt's energy, prefill included, / output tokens; idle power in it.
        decode_token_mwh: Decode energy / output tokens; prefill_token_mwh: prefill energy / prompt tokens.
        peak_w: Greatest power between two readings.
        sustained_w: Mean over the measured runs.
    """

    model: str | None
    quantization: str | None
    runtime: str | None
    device: str | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    ttft_ms: float | None
    token_mwh: float | None
    prefill_token_mwh: float | None
    decode_token_mwh: float | None
    token_mah: float | None
    prompts_per_charge: float | None
    sustained_w: float | None
    peak_w: float | None
    peak_memory_bytes: float | None
    peak_temperature_c: float | None
    source: str | None
    missing: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the figures ready for JSON."""
        return asdict(self)


def paper_figures(trace: Trace, report: EnergyReport, battery: Battery | None = None) -> PaperFigures:
    """Returns the paper's figures for a trace; those of charge need a battery."""
    summary = summarize(trace)
    total = report.total
    missing: dict[str, str] = {}
    n_output = report.per_token["decode"].n_tok
    token_j = None if total.gross_j is None or not n_output else total.gross_j / n_output
    if token_j is None:
        missing["token_mwh"] = total.reason or "no output token"
    if battery is None:
        missing["prompts_per_charge"] = "no battery was given: --battery 4000mAh,3.85V"
    temperature = _peak_temperature(trace)
    if temperature is None:
        missing["peak_temperature_c"] = "no temperature was read"
    view = None if battery is None else battery_view(report, battery)
    return PaperFigures(
        model=summary.model,
        quantization=summary.quantization,
        runtime=summary.runtime,
        device=summary.device,
        prefill_tok_s=None if summary.prefill_tok_s is None else summary.prefill_tok_s.median,
        decode_tok_s=None if summary.decode_tok_s is None else summary.decode_tok_s.median,
        ttft_ms=None if summary.ttft_ms is None else summary.ttft_ms.median,
        token_mwh=_mwh(token_j),
        prefill_token_mwh=_mwh(report.per_token["prefill"].gross_j),
        decode_token_mwh=_mwh(report.per_token["decode"].gross_j),
        token_mah=None if battery is None or token_j is None else token_j / battery.nominal_v / J_PER_MWH,
        prompts_per_charge=None if view is None else view.prompts_per_charge,
        sustained_w=total.mean_w,
        peak_w=_peak_w(report),
        peak_memory_bytes=summary.peak_rss_bytes,
        peak_temperature_c=temperature,
        source=report.curve.name,
        missing=missing,
    )


def _mwh(joules: float | None) -> float | None:
    return None if joules is None else joules / J_PER_MWH


def _peak_w(report: EnergyReport) -> float | None:
    curve = report.curve
    if curve.is_counter:
        power = np.diff(curve.reading) / np.diff(curve.reading_ns) * 1e9
        power = power[~curve.reading_is_unknown]
    else:
        power = curve.reading
    peak = float(power.max()) if len(power) else math.nan
    return peak if math.isfinite(peak) else None


def _peak_temperature(trace: Trace) -> float | None:
    """Returns the highest temperature where the device is touched, or as near to that as it was read."""
    series = {name: found for name, found in series_of(trace).items() if found.kind == "temperature"}
    for site in _SKIN:
        found = series.get(f"{site}/temperature")
        if found is not None and len(found.values):
            return float(found.values.max())
    peaks = [float(found.values.max()) for found in series.values() if len(found.values)]
    return max(peaks) if peaks else None
