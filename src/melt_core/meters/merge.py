"""Joins a meter's recording with a trace: its readings become samples of the site ``meter``, on the trace's clock."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melt_core.errors import InvalidArgumentError
from melt_core.meters.align import ClockFit, phase_times
from melt_core.meters.recording import MAX_LISTED, UNITS, Recording
from melt_core.trace.append import SampleSeries, write_appended
from melt_core.trace.format import ChunkKind
from melt_core.trace.storage import written_atomically

if TYPE_CHECKING:
    from melt_core.trace import Trace

#: Readings so long before the trace's first phase and after its last are kept, for the idle power.
MARGIN_S: Final = 60.0


def merge(
    trace: Trace, recording: Recording, fit: ClockFit, output: str | os.PathLike[str], *, site: str = "meter"
) -> None:
    """Writes a trace with a meter's readings in it; the original stays as it is.

    Args:
        trace: Of the device.
        recording: Of the meter.
        fit: How the meter's time becomes the trace's.
        output: The new trace file.
        site: What the readings are of: ``meter`` stands for the whole device.

    Raises:
        InvalidArgumentError: The recording and the trace do not overlap, the site is taken, or the output is an input.
        StorageError: The file cannot be written.
    """
    metadata, series = _additions(trace, recording, fit, site)
    with written_atomically(output, inputs=[trace.path, recording.source]) as file:
        write_appended(trace.buffer, file, name=trace.path or "the trace", metadata=metadata, series=series)


def merged_bytes(trace: Trace, recording: Recording, fit: ClockFit, *, site: str = "meter") -> bytes:
    """Returns the bytes that `merge` writes. Raises: InvalidArgumentError as it does."""
    metadata, series = _additions(trace, recording, fit, site)
    out = io.BytesIO()
    write_appended(trace.buffer, out, name=trace.path or "the trace", metadata=metadata, series=series)
    return out.getvalue()


def _additions(
    trace: Trace, recording: Recording, fit: ClockFit, site: str
) -> tuple[dict[str, Any], list[SampleSeries]]:
    channels = trace.records(ChunkKind.CHANNELS)
    if (channels["site"] == site.encode()).any():
        raise InvalidArgumentError(
            f"the trace has readings of {site!r} already: give another site, or take the original"
        )
    start_ns, end_ns = phase_times(trace)
    time_ns = fit.to_trace_ns(recording.time_ns)
    inside = (time_ns >= start_ns - MARGIN_S * 1e9) & (time_ns <= end_ns + MARGIN_S * 1e9)
    overlap_ns = min(int(time_ns[-1]), end_ns) - max(int(time_ns[0]), start_ns)
    if overlap_ns <= 0 or not inside.any():
        raise InvalidArgumentError(
            f"{recording.source} and the trace do not overlap: it lies {(time_ns[0] - start_ns) / 1e9:+.1f} s to "
            f"{(time_ns[-1] - start_ns) / 1e9:+.1f} s from the trace's beginning"
        )
    series = dict(recording.series)
    derived = "power" not in series and {"current", "voltage"} <= set(series)
    if derived:
        series["power"] = recording.power_w()
    additions = []
    for kind, values in series.items():
        source = "derived: current x voltage" if derived and kind == "power" else recording.source
        kept = inside & np.isfinite(values)
        additions.append(SampleSeries(site, kind, UNITS[kind], source, time_ns[kept], values[kept]))
    return _metadata(trace, recording, fit, site, int(inside.sum())), additions


def _metadata(trace: Trace, recording: Recording, fit: ClockFit, site: str, n_kept: int) -> dict[str, Any]:
    earlier = trace.metadata.get("meters")
    gaps = [[int(a), int(b)] for a, b in fit.to_trace_ns(np.array(recording.gaps_ns).reshape(-1, 2)).tolist()]
    about = {
        "source": recording.source,
        "rate_hz": recording.rate_hz,
        "n_readings": len(recording.time_ns),
        "n_samples": n_kept,
        "gaps_ns": gaps[:MAX_LISTED],
        "n_gaps": len(gaps),
        "warnings": list(recording.warnings),
        "clock": {
            "method": fit.method,
            "offset_ns": fit.offset_ns,
            "drift_ppm": fit.drift_ppm,
            "error_ns": fit.error_ns,
            "n_points": fit.n_points,
        },
    }
    warnings = [f"{site}: {text}" for text in recording.warnings]
    if fit.method == "wall clock":
        warnings.append(
            f"{site} was aligned by wall clocks only: within some {fit.error_ns / 1e6:.0f} ms, drift unknown"
        )
    return {"meters": {**(earlier if isinstance(earlier, Mapping) else {}), site: about}, "warnings": warnings}
