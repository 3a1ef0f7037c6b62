"""Runs prompts back to back for minutes, into a folder that can be resumed: one trace for each sitting.

sustain(SustainRequest(profile=ProfileRequest(model=MODEL, output=""), minutes=30), "out")

out/request.json       what was asked, so that `resume` needs nothing else
out/segment-000.melt   a sitting; its complete chunks stay readable however it ended
out/state.json         how the last sitting ended
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from melt_core.errors import InvalidArgumentError, StorageError, TraceError
from melt_core.profiling.isolated import run_worker
from melt_core.profiling.request import ProfileRequest
from melt_core.trace import Trace
from melt_core.trace.format import ChunkKind
from melt_core.trace.storage import written_atomically
from melt_core.trace.tail import ns_run
from melt_core.units import NS_PER_S

REQUEST_FILE: Final = "request.json"
STATE_FILE: Final = "state.json"
MAX_MINUTES: Final = 24 * 60.0
_WORKER: Final = "melt_core.profiling.sustain_worker"


@dataclass(frozen=True)
class SustainRequest:
    """What to run, for how long, and when to stop before.

    Attributes:
        profile: Model, prompt and settings; its `output`, `repeats`, `warmup` and overhead measurement are not used.
        minutes: Of running by the traces' clocks, from the first prompt of a sitting to its last; pauses between
            sittings are not counted.
        stop_temperature_c: Stop when a sensor of temperature reads so much; None: never.
        stop_site: Only the temperature of this site; None: the hottest.
        stop_charge_ratio: Stop when the battery is down to this share; None: never.
        device: "local", or the name of a device, as "adb:SERIAL".
    """

    profile: ProfileRequest
    minutes: float
    stop_temperature_c: float | None = None
    stop_site: str | None = None
    stop_charge_ratio: float | None = None
    device: str = "local"

    def __post_init__(self) -> None:
        """Checks the numbers. Raises: InvalidArgumentError."""
        if not 0 < self.minutes <= MAX_MINUTES:
            raise InvalidArgumentError(f"{self.minutes} minutes: give more than 0, and at most {MAX_MINUTES:.0f}")
        if self.stop_temperature_c is not None and not 0 < self.stop_temperature_c <= 150:
            raise InvalidArgumentError(f"a stop at {self.stop_temperature_c} degC: give 0 to 150")
        if self.stop_charge_ratio is not None and not 0 <= self.stop_charge_ratio < 1:
            raise InvalidArgumentError(f"a stop at a charge of {self.stop_charge_ratio}: give a share, 0 to below 1")

    @property
    def duration_ns(self) -> int:
        """`minutes` in ns."""
        return round(self.minutes * 60 * NS_PER_S)

    def to_json(self) -> str:
        """Returns the request as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> SustainRequest:
        """Reads what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["profile"] = ProfileRequest.from_json(json.dumps(values["profile"]))
        known = {field.name for field in fields(SustainRequest)}
        return SustainRequest(**{name: value for name, value in values.items() if name in known})


def stop_reason(request: SustainRequest, latest: Mapping[tuple[str, str], float]) -> str | None:
    """Returns why the run has to end by what the sensors last read; None while it may go on."""
    if request.stop_temperature_c is not None:
        for (site, kind), value in latest.items():
            wanted = request.stop_site in (None, site)
            if kind == "temperature" and wanted and value >= request.stop_temperature_c:
                return f"{site} at {value:.1f} degC, and it was to stop at {request.stop_temperature_c:g}"
    if request.stop_charge_ratio is not None:
        for (site, kind), value in latest.items():
            if kind == "charge_share" and value <= request.stop_charge_ratio:
                return f"{site} at {value:.0%}, and it was to stop at {request.stop_charge_ratio:.0%}"
    return None


def sustain(
    request: SustainRequest, folder: str | Path, *, on_event: Callable[[dict[str, Any]], None] | None = None
) -> list[Trace]:
    """Runs a new sustained run in `folder`; returns its traces.

    Args:
        request: What to do.
        folder: Made if need be; it must not hold another sustained run.
        on_event: Called with ``{"event": "prompt", "seconds": s, "of": total}`` after each prompt.

    Raises:
        InvalidArgumentError: The folder holds one already, or a stop asks for a sensor that is not there.
        StorageError: The folder cannot be written.
        MeltError: What went wrong while it ran; what was measured before is in the folder.
        KeyboardInterrupt: After Ctrl-C; all that was measured is in the folder, and `resume` goes on.
    """
    place = Path(folder)
    if segments(place):
        raise InvalidArgumentError(f"{place} holds a sustained run: resume it with --resume {place}, or name another")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error("make", str(place), error) from error
    with written_atomically(place / REQUEST_FILE) as file:
        file.write(request.to_json().encode())
    return resume(place, on_event=on_event)


def resume(folder: str | Path, *, on_event: Callable[[dict[str, Any]], None] | None = None) -> list[Trace]:
    """Goes on with an interrupted sustained run, in a new segment; does nothing where its minutes have been run.

    Raises: as `sustain` does; InvalidArgumentError where the folder holds none.
    """
    place = Path(folder)
    request = stored_request(place)
    # A sitting ends by this same sum, in whole ns: one that ran its time leaves nothing for the next.
    done_ns = sum(ns_run(trace.records(ChunkKind.RUNS)) for trace in open_segments(place))
    if done_ns >= request.duration_ns:
        return open_segments(place)
    reason = _here(request, place, done_ns, on_event)
    with written_atomically(place / STATE_FILE) as file:
        file.write(json.dumps({"stopped_by": reason}).encode())
    return open_segments(place)


def _here(
    request: SustainRequest,
    place: Path,
    done_ns: int,
    on_event: Callable[[dict[str, Any]], None] | None,
) -> str | None:
    """Runs what is left, in a child process or on a device; returns why it ended."""

    def next_segment() -> Path:
        return place / f"segment-{len(segments(place)):03d}.melt"

    if request.device != "local":
        from melt_core.profiling.sustain_device import run_on_device

        return run_on_device(request, request.device, outputs=next_segment, done_ns=done_ns, on_event=on_event)
    output = next_segment()
    profile = replace(request.profile, output=str(output))
    line = json.dumps({"request": replace(request, profile=profile).to_json(), "done_ns": done_ns})
    last = run_worker(_WORKER, line, output=str(output), name=profile.runtime, on_event=on_event)
    ended = last.get("stopped_by")
    return ended if isinstance(ended, str) else None


def segments(folder: Path) -> list[Path]:
    """Returns the traces of a sustained run, in order."""
    return sorted(folder.glob("segment-*.melt"))


def open_segments(folder: Path) -> list[Trace]:
    """Returns the traces of a sustained run that can be read; one that was cut inside its header holds nothing."""
    found = []
    for path in segments(folder):
        try:
            found.append(Trace.open(path))
        except TraceError:
            continue
    return found


def stored_request(folder: Path) -> SustainRequest:
    """Returns what a sustained run was asked to do.

    Raises:
        InvalidArgumentError: The folder holds none.
    """
    path = folder / REQUEST_FILE
    try:
        return SustainRequest.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgumentError(
            f"{folder} holds no sustained run ({path.name}: {error.strerror or error})"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgumentError(f"{path} is damaged: {error}") from error


def stopped_by(folder: Path) -> str | None:
    """Returns how the last sitting ended; None where it did not come to an end of its own."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    reason = state.get("stopped_by") if isinstance(state, dict) else None
    return reason if isinstance(reason, str) else None
