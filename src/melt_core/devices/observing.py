"""What the host observes while a device runs: its clock and its telemetry, kept line by line, and put on one time.

    each second: a round trip of the clock; each `telemetry_s`: a readout      -> journal (host's steady clock)
    afterwards: alignment of the clocks -> device's steady clock -> time since the trace began -> samples of the trace

Asking a device costs it something: a shell and some programs each time. `telemetry_s` says how often, and the trace
says it too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from melt_core.devices.agent import AgentClient
from melt_core.devices.clock import Alignment, Exchange, align
from melt_core.devices.journal import Journal
from melt_core.devices.probe import Observation, Probe
from melt_core.devices.state_dir import boot_id
from melt_core.errors import DeviceError, MeltError, TransientDeviceError
from melt_core.trace.append import SampleSeries

logger = logging.getLogger(__name__)

#: Round trips before and after a run, of which the shortest counts.
BURST = 16
#: A device that takes seconds to answer (iOS) is asked less often, but more than once.
BURST_S = 5.0
#: The wall clock of a device that was set by more than this in a run cannot place the trace's zero.
_STEPPED_NS = 1_000_000
_MOST_CHANNELS = 1000
_NUMBERS = ("send", "device", "receive", "wall_minus_steady")


@dataclass
class Observer:
    """Keeps what is seen of one run in the journal."""

    agent: AgentClient
    probe: Probe
    journal: Journal
    run: str
    _boot: str = field(default_factory=boot_id)

    def clock(self, times: int = 1) -> None:
        """Asks for the time so often, for a bounded time. What fails to answer now is left to the next call."""
        began = time.monotonic()
        for done in range(times):
            if done > 1 and time.monotonic() - began > BURST_S:
                return
            exchange, wall_minus_steady, device_boot = self.agent.exchange_clock()
            self.journal.note(
                self.run,
                {
                    "clock": {
                        "send": exchange.send_ns,
                        "device": exchange.device_ns,
                        "receive": exchange.receive_ns,
                        "wall_minus_steady": wall_minus_steady,
                    },
                    "boot": self._boot,
                    "device_boot": device_boot,
                },
            )

    def telemetry(self) -> None:
        """Reads the device's sensors once; what goes wrong is noted, not raised: the run is worth more."""
        try:
            self.journal.note(self.run, {**note_of(self.probe.observe()), "boot": self._boot})
        except TransientDeviceError:
            raise
        except MeltError as error:
            logger.warning("telemetry of %s: %s", self.run, error)


def note_of(observation: Observation) -> dict[str, Any]:
    """Returns an observation as a line of the journal."""
    readout = observation.readout
    return {
        "at": observation.host_ns,
        "took": observation.round_trip_ns,
        "readings": [
            [reading.channel.site, reading.channel.kind, reading.channel.unit, reading.channel.source, reading.value]
            for reading in readout.readings
        ],
        "absent": [[absent.what, absent.reason] for absent in readout.absent],
        "facts": dict(readout.facts),
        "notes": list(readout.notes),
    }


@dataclass(frozen=True)
class Additions:
    """What a trace gets from the host."""

    metadata: dict[str, Any]
    series: tuple[SampleSeries, ...]


def additions(
    notes: Iterable[Mapping[str, Any]],
    *,
    trace_wall_ns: int,
    trace_zero_ns: int | None,
    telemetry_s: float,
    is_simulated: bool = False,
) -> Additions:
    """Returns samples on the trace's own time, and metadata on clocks and telemetry.

    Args:
        notes: Lines of the journal.
        trace_wall_ns: The wall time of the trace's zero, from its header; the device's wall clock.
        trace_zero_ns: The same on the device's steady clock, as the agent's status has it; None where it does not.
        telemetry_s: How often was read.
        is_simulated: The trace's times are those of a simulated clock, which nothing else has.
    """
    lines = [line for line in notes if isinstance(line.get("boot"), str)]
    alignments, shifts, warnings = _alignments(lines)
    zero, how = _zero(shifts, trace_wall_ns, trace_zero_ns)
    metadata: dict[str, Any] = {"telemetry": _telemetry_metadata(lines, telemetry_s)}
    if not alignments or zero is None or is_simulated:
        reason = "the device's clock was never read" if not alignments else "the trace's beginning is not known"
        reason = "the trace is on a simulated clock" if is_simulated else reason
        metadata["clock_alignment"] = {"missing": reason}
        metadata["warnings"] = [*warnings, f"readings from the host were left out: {reason}"]
        return Additions(metadata, ())
    best = max(alignments.values(), key=lambda one: one.n_exchanges)
    metadata["clock_alignment"] = {**best.to_metadata(), "zero_from": how, "n_host_starts": len(alignments)}
    found = [text for one in alignments.values() for text in one.warnings]
    if warnings or found:
        metadata["warnings"] = [*warnings, *found]
    return Additions(metadata, _series(lines, alignments, zero))


def _alignments(lines: list[Mapping[str, Any]]) -> tuple[dict[str, Alignment], list[int], list[str]]:
    """Returns the alignment for each start of the host's system, and wall minus steady of the device over time."""
    by_boot: dict[str, list[Exchange]] = {}
    shifts, device_boots = [], set()
    for line in lines:
        clock = line.get("clock")
        if not isinstance(clock, dict) or any(type(clock.get(name)) is not int for name in _NUMBERS):
            continue
        by_boot.setdefault(line["boot"], []).append(Exchange(clock["send"], clock["device"], clock["receive"]))
        shifts.append(clock["wall_minus_steady"])
        device_boots.add(line.get("device_boot"))
    warnings = []
    if len(device_boots) > 1:
        warnings.append("the device was restarted while it was observed: readings from the host were left out")
        return {}, shifts, warnings
    alignments = {}
    for boot, exchanges in by_boot.items():
        try:
            alignments[boot] = align(exchanges)
        except DeviceError as error:
            warnings.append(str(error))
    return alignments, shifts, warnings


def _zero(shifts: list[int], trace_wall_ns: int, trace_zero_ns: int | None) -> tuple[int | None, str]:
    """Returns the device's steady time of the trace's zero, and what it was found by."""
    if trace_zero_ns is not None:
        return trace_zero_ns, "trace_zero_ns of the run's status"
    if shifts and max(shifts) - min(shifts) < _STEPPED_NS:  # nobody set the device's wall clock meanwhile
        return trace_wall_ns - sorted(shifts)[len(shifts) // 2], "wall time of the trace's header"
    return None, "nothing"


def _telemetry_metadata(lines: list[Mapping[str, Any]], telemetry_s: float) -> dict[str, Any]:
    facts: dict[str, str] = {}
    absent: dict[str, str] = {}
    notes: list[str] = []
    took = []
    for line in lines:
        if "readings" not in line:
            continue
        took.append(float(line.get("took", 0)) / 1e6)
        facts.update(line.get("facts", {}))
        absent.update({str(what): str(reason) for what, reason in line.get("absent", [])})
        notes += [note for note in line.get("notes", []) if note not in notes]
    return {
        "by": "the host, through the transport",
        "period_s": telemetry_s,
        "n_readouts": len(took),
        "median_ms": sorted(took)[len(took) // 2] if took else None,
        "facts": facts,
        "missing": absent,
        "assumptions": notes,
    }


def _series(
    lines: list[Mapping[str, Any]], alignments: Mapping[str, Alignment], zero_ns: int
) -> tuple[SampleSeries, ...]:
    found: dict[tuple[str, str, str, str], tuple[list[int], list[float]]] = {}
    for line in lines:
        alignment = alignments.get(line["boot"])
        if alignment is None or type(line.get("at")) is not int:
            continue
        at = alignment.to_device(line["at"]) - zero_ns
        for reading in line.get("readings", []):
            if len(reading) != 5 or not isinstance(reading[4], (int, float)) or not math.isfinite(reading[4]):
                continue
            times, values = found.setdefault((reading[0], reading[1], reading[2], reading[3]), ([], []))
            times.append(at)
            values.append(float(reading[4]))
    kept = list(found.items())[:_MOST_CHANNELS]
    return tuple(SampleSeries(*channel, times, values) for channel, (times, values) in kept)
