"""One run on a device, from the request to the trace at its place; each step can be taken up again after any failure.

    journal entry -> start (detached there) -> follow -> pull, checked -> what the host saw added -> output -> forgotten

Only the last step forgets. A host that dies, a cable that is pulled, an adb server that is killed: `resume` goes on
from what the device says of the run.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melt_core.devices.agent import AgentClient, Reply
from melt_core.devices.journal import Entry, Journal
from melt_core.devices.observing import BURST, Observer, additions
from melt_core.devices.retry import Patience, retried
from melt_core.devices.state_dir import state_dir
from melt_core.errors import (
    CancelledError,
    DeviceBusyError,
    DeviceError,
    InvalidArgumentError,
    MeltError,
    RuntimeFailedError,
    StorageError,
    TraceError,
    TransientDeviceError,
)
from melt_core.trace import Trace
from melt_core.trace.append import SampleSeries, append_to_trace
from melt_core.trace.format import ChunkKind, ClockId
from melt_core.trace.reader import TraceHeader, read_file
from melt_core.trace.storage import written_atomically
from melt_core.trace.tables import decode_text
from melt_core.transports import RemotePath, Transport

logger = logging.getLogger(__name__)

FINAL = ("done", "cancelled", "failed", "lost")
LEASE_S = 120
_RENEW_S = 30.0
POLL_S = 0.5
_CANCEL_GRACE_S = 30.0
MAX_TRACE_BYTES = 4 << 30
#: A run that says it goes on is followed no longer than this.
RUN_TIMEOUT_S = 86_400.0

#: While a run goes on: a cable may be out for some minutes, an adb server is back in seconds.
FOLLOW_PATIENCE = Patience(attempts=60, total_s=300.0, first_wait_s=0.2, longest_wait_s=10.0)

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RunOutcome:
    """What a run gave, with its trace at the place that was asked for."""

    trace: Trace
    state: str
    output_text: str
    output_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]


@dataclass
class DeviceRun:
    """Follows one run of the journal on one device."""

    agent: AgentClient
    transport: Transport
    journal: Journal
    observer: Observer
    entry: Entry
    telemetry_s: float = 1.0
    poll_s: float = POLL_S
    patience: Patience = FOLLOW_PATIENCE
    timeout_s: float = RUN_TIMEOUT_S
    on_event: OnEvent | None = None

    def start(self) -> None:
        """Tells the device to start; repeating it starts nothing twice, as the run has a name.

        Raises:
            DeviceBusyError: Another host has the device, or a run is under way there.
            MeltError: What the agent refused, with its kind. The run is then forgotten.
        """
        began = False

        def begin() -> None:
            nonlocal began
            if began and self._exists():
                return
            began = True
            self.agent.ask("start", run=self.entry.run, request=dict(self.entry.request))

        try:
            with contextlib.suppress(TransientDeviceError):  # what follows waits for the device, if need be
                self.observer.clock(BURST)
            retried(f"start on {self.transport.uri}", begin, patience=self.patience)
        except TransientDeviceError as error:
            if isinstance(error, DeviceBusyError):
                self.journal.remove(self.entry.run)
                raise
            raise TransientDeviceError(f"{error}; {self._how_to_resume()}") from error
        except MeltError:
            self.journal.remove(self.entry.run)
            raise

    def exists(self) -> bool:
        """Returns whether the device knows of the run; it does not if the host died before it could start it."""
        return retried(f"look for a run on {self.transport.uri}", self._exists, patience=self.patience)

    def finish(self) -> RunOutcome:
        """Follows the run to its end and brings its trace back.

        Raises:
            TransientDeviceError: The device was out of reach for too long; the run goes on and `resume` fetches it.
            CancelledError: Somebody on the device ended it, such as its system when that shuts down.
            MeltError: The run failed, with the kind of what failed it; what it measured is at its place all the same.
            KeyboardInterrupt: After Ctrl-C, once the run was ended there and its trace is here.
        """
        interrupted: KeyboardInterrupt | None = None
        try:
            status = self._follow(self.timeout_s)
        except KeyboardInterrupt as interrupt:
            interrupted = interrupt
            with contextlib.suppress(TransientDeviceError):
                self.agent.ask("cancel", run=self.entry.run)
            status = self._follow(_CANCEL_GRACE_S)
        outcome = self._fetch(status)
        if interrupted is not None:
            raise interrupted
        if outcome is None or status.text("state", most=32) != "done":
            raise self._failure(status, has_trace=outcome is not None)
        return outcome

    # Following

    def _follow(self, limit_s: float) -> Reply:
        began = renewed = time.monotonic()
        next_telemetry = began
        while True:
            status = self._status()
            self._tell(status)
            if status.text("state", most=32) in FINAL:
                return status
            now = time.monotonic()
            if now - began > limit_s:
                raise TransientDeviceError(f"the run did not end within {limit_s:g} s; {self._how_to_resume()}")
            with contextlib.suppress(TransientDeviceError):  # the next status waits for the device, if need be
                self.observer.clock()
                if self.telemetry_s > 0 and now >= next_telemetry:
                    next_telemetry = now + self.telemetry_s
                    self.observer.telemetry()
                if now - renewed > _RENEW_S:
                    renewed = now
                    self.agent.ask("lease", ttl_s=LEASE_S)
            time.sleep(self.poll_s)

    def _status(self) -> Reply:
        try:
            return self.agent.insist("status", run=self.entry.run, patience=self.patience)
        except InvalidArgumentError as error:
            self.journal.remove(self.entry.run)
            raise DeviceError(
                f"{self.transport.uri} knows nothing of run {self.entry.run} ({error}): it never began, or its work "
                "directory was removed; start it again"
            ) from error
        except DeviceBusyError:
            raise
        except TransientDeviceError as error:
            raise TransientDeviceError(f"{error}; {self._how_to_resume()}") from error

    def _exists(self) -> bool:
        try:
            self.agent.ask("status", run=self.entry.run)
        except InvalidArgumentError:
            return False
        return True

    def _tell(self, status: Reply) -> None:
        total = status.integer("repetitions", high=2**32) if status.has("repetitions") else 0
        done = status.integer("repetition", high=2**32) if status.has("repetition") else 0
        if self.on_event is None:
            return
        if total:
            self.on_event({"event": "repetition", "done": min(done, total), "total": total})
        else:
            self.on_event({"event": "load", "done": 0.0})

    # Fetching

    def _fetch(self, status: Reply) -> RunOutcome | None:
        """Returns the run with its trace, which is at its place then; None if there is no trace."""
        with contextlib.suppress(TransientDeviceError):  # the alignment gets worse without, no more
            self.observer.clock(BURST)
        if self.telemetry_s > 0:
            with contextlib.suppress(TransientDeviceError):
                self.observer.telemetry()
        pulled = self._pull(status)
        if pulled is None:
            self._forget()
            return None
        output = Path(self.entry.output)
        head = self._head_of(pulled, output)
        added = additions(
            self.journal.notes(self.entry.run),
            trace_wall_ns=head.start_wall_ns,
            trace_zero_ns=status.integer("trace_zero_ns") if status.has("trace_zero_ns") else None,
            telemetry_s=self.telemetry_s,
            is_simulated=head.clock_id == ClockId.SIMULATED,
        )
        metadata = {**self.entry.metadata, **added.metadata}
        texts = [*self.entry.metadata.get("warnings", ()), *added.metadata.get("warnings", ())]
        if texts:
            metadata["warnings"] = texts
        try:
            append_to_trace(pulled, output, metadata=metadata, series=_not_in(Trace.open(pulled), added.series))
        except StorageError as error:
            raise StorageError(f"{error}; the run is not lost: {self._how_to_resume()}") from error
        self._forget()
        return RunOutcome(
            trace=Trace.open(output),
            state=status.text("state", most=32),
            output_text=status.text("output_text", most=1 << 20) if status.has("output_text") else "",
            output_ids=status.ids("output_ids"),
            prompt_ids=status.ids("prompt_ids"),
        )

    def _head_of(self, pulled: Path, output: Path) -> TraceHeader:
        """Returns the trace's header; what is no trace goes to its place as it is, and is an error."""
        try:
            return read_file(pulled).header
        except TraceError as error:
            with written_atomically(output) as file, pulled.open("rb") as source:
                shutil.copyfileobj(source, file)
            self._forget()
            raise TraceError(
                f"{self.transport.uri} gave no trace: {error}; the file is at {output} as it came"
            ) from error

    def _pull(self, status: Reply) -> Path | None:
        size = status.integer("trace_bytes") if status.has("trace_bytes") else 0
        if size == 0:
            return None
        if size > MAX_TRACE_BYTES:
            raise DeviceError(
                f"{self.transport.uri} says that the trace of run {self.entry.run} has {size} bytes; more than "
                f"{MAX_TRACE_BYTES} are not fetched"
            )
        source = RemotePath(("runs", self.entry.run, "trace.melt"))
        target = state_dir() / "runs" / self.entry.run / "trace.melt"
        try:
            moved = retried(
                f"fetch the trace from {self.transport.uri}",
                lambda: self.transport.pull(source, target, max_bytes=size),
                patience=self.patience,
            )
        except TransientDeviceError as error:
            raise TransientDeviceError(f"{error}; {self._how_to_resume()}") from error
        wanted = self._written_sha256(status) or moved.sha256
        if moved.sha256 != wanted:
            target.unlink(missing_ok=True)
            raise DeviceError(
                f"the trace of run {self.entry.run} on {self.transport.uri} is not the one that the agent wrote: its "
                f"sha256 is {moved.sha256[:12]}... instead of {wanted[:12]}...; run it again"
            )
        return target

    def _written_sha256(self, status: Reply) -> str:
        """Returns the hash of the trace as the device has it; a run that is lost wrote none, so the agent is asked."""
        if status.has("trace_sha256"):
            return status.text("trace_sha256", most=64)
        if status.text("state", most=32) != "lost":
            return ""
        path = f"runs/{self.entry.run}/trace.melt"
        return self.agent.insist("hash", path=path, patience=self.patience).text("sha256", most=64)

    def _forget(self) -> None:
        """Removes the run there and here: its trace is at its place."""
        try:
            self.agent.ask("delete", run=self.entry.run)
        except MeltError as error:  # it lies there until `melt devices clean`
            logger.warning("run %s was not removed from %s: %s", self.entry.run, self.transport.uri, error)
        self.journal.remove(self.entry.run)

    def _failure(self, status: Reply, *, has_trace: bool) -> MeltError:
        if status.has("error"):
            error = status.error()
        elif status.text("state", most=32) == "cancelled":
            error = CancelledError(
                f"the run was ended on {self.transport.uri} before it was complete: by its system, as when that is "
                "restarted, or by somebody else"
            )
        else:
            error = RuntimeFailedError("the run failed and did not say why")
        kept = f"; what was measured until then is in {self.entry.output}" if has_trace else ""
        lost = "the run was lost: " if status.text("state", most=32) == "lost" else ""
        made: MeltError = type(error)(f"{lost}{error}{kept}")
        return made

    def _how_to_resume(self) -> str:
        return (
            f"run {self.entry.run} goes on there without this host: `melt devices resume`, or the same command again, "
            "brings it back"
        )


def _not_in(trace: Trace, series: tuple[SampleSeries, ...]) -> tuple[SampleSeries, ...]:
    """Returns what the trace has no samples of: the device's own readings are nearer to what they measure."""
    channels = trace.records(ChunkKind.CHANNELS)
    read = channels[np.isin(channels["channel"], trace.records(ChunkKind.SAMPLES)["channel"])]
    known = set(zip(decode_text(read["site"]), decode_text(read["kind"]), strict=True))
    return tuple(one for one in series if (one.site, one.kind) not in known)
