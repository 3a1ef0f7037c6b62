"""A device that models are measured on: reached, judged, given agent and model, measured, left clean.

Example:
    >>> import melt_core as melt
    >>> with melt.connect("adb:R58N12ABCDE") as phone:  # doctest: +SKIP
    ...     with melt.load("model.gguf", device=phone) as llm, melt.profile(llm) as prof:
    ...         prof.run("Hello", max_tokens=16)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from melt_core.devices import tidying
from melt_core.devices.agent import DEFAULT_TIMEOUT_S, HASH_TIMEOUT_S, PROTOCOL, AgentClient, Reply
from melt_core.devices.agents import SizeThere, agent_files, deploy_agent, package_version
from melt_core.devices.gates import GateLimits, GateReport, pass_gates
from melt_core.devices.journal import Entry, Journal, absolute, new_run_name
from melt_core.devices.measurement import Measurement
from melt_core.devices.observing import Observer
from melt_core.devices.preparing import Brought, bring_model, run_metadata
from melt_core.devices.probe import DeviceInfo, Observation, Probe
from melt_core.devices.retry import Patience, retried
from melt_core.devices.runs import LEASE_S, DeviceRun, OnEvent, RunOutcome
from melt_core.devices.state_dir import host_id
from melt_core.devices.uri import DeviceUri, parse_uri
from melt_core.errors import DeviceError, InvalidArgumentError, MeltError, RuntimeFailedError, StorageError
from melt_core.transports import AdbTransport, IosTransport, LocalTransport, RemotePath, SshTransport, Transport

CONNECT_PATIENCE = Patience(attempts=4, total_s=60.0, first_wait_s=0.5, longest_wait_s=8.0)

#: A lease while a model is sent, which nobody renews.
_SENDING_S = 600


class Device:
    """One device. Made by `connect`; leaving its ``with`` block ends the connection, and no run."""

    def __init__(self, transport: Transport, *, journal: Journal | None = None) -> None:
        """Uses a transport, which it closes in the end."""
        self.transport = transport
        self._journal = journal or Journal()
        self.probe = Probe(transport)
        self._agent: AgentClient | None = None
        self._hello: Reply | None = None

    @property
    def uri(self) -> str:
        """Its name, such as ``adb:R58N12ABCDE``."""
        return self.transport.uri

    def info(self) -> DeviceInfo:
        """Returns who it is.

        Raises:
            TransientDeviceError: It cannot be reached.
            DeviceError: It does not let us.
        """
        return retried(f"ask {self.uri} who it is", self.probe.info, patience=CONNECT_PATIENCE)

    def observe(self) -> Observation:
        """Returns how it is now: battery, temperatures, clocks, memory. Raises: as `info` does."""
        return retried(f"ask {self.uri} how it is", self.probe.observe, patience=CONNECT_PATIENCE)

    # The agent

    def agent(self) -> AgentClient:
        """Returns the agent there, having brought it if this version of it was not there.

        Raises:
            DeviceError: There is none for this device, or it cannot run there.
            TransientDeviceError: The device cannot be reached.
        """
        if self._agent is None:
            self._agent, self._hello = self._start_agent()
        return self._agent

    def hello(self) -> Reply:
        """Returns what the agent said of itself and the device."""
        self.agent()
        assert self._hello is not None
        return self._hello

    def _start_agent(self) -> tuple[AgentClient, Reply]:
        if self._is_ios:
            return self._greeted("melt-agent")
        failures: list[str] = []
        for file in agent_files(self.info().platform):
            try:
                return self._greeted(self.transport.resolve(deploy_agent(self.transport, file)))
            except RuntimeFailedError as error:  # instructions that this CPU lacks: a plainer build may do
                failures.append(f"{file.preset}: {error}")
        raise DeviceError(f"no agent runs on {self.uri}: {'; '.join(failures)}")

    def _greeted(self, program: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[AgentClient, Reply]:
        work = self.transport.work_dir
        agent = AgentClient(
            lambda: self.transport.open_channel([program, "--work", work]), uri=self.uri, host=host_id()
        )
        try:
            hello = agent.insist("hello", protocol=PROTOCOL, patience=CONNECT_PATIENCE, timeout_s=timeout_s)
            version = hello.text("version", most=64)
            if hello.integer("protocol", high=1 << 31) != PROTOCOL or version != package_version():
                raise DeviceError(
                    f"the agent for {self.uri} is of version {version}, protocol {hello.integer('protocol')}; this "
                    f"melt_core is {package_version()}, protocol {PROTOCOL}: build it again with `make cross`, or "
                    "install the app anew"
                )
        except BaseException:
            agent.close()
            raise
        return agent, hello

    def bring(
        self,
        model: str,
        *,
        runtime: str = "llama.cpp",
        runtime_path: str | None = None,
        model_lib: str | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Brought:
        """Brings the agent and a model there, each if it is not there; nothing is loaded.

        Args:
            model: A file of this host, or a model directory for the MLC runtime.
            runtime: What will run it.
            runtime_path: For MLC, the folder of TVM's libraries for the device; ``device:PATH`` if they are there.
            model_lib: For MLC, the compiled model for the device, where it is not in the directory.
            on_progress: Told how much of the model is sent, 0..1.

        Raises:
            InvalidArgumentError: No libraries for this device were named.
            StorageError: The model cannot be read.
            DeviceBusyError: Another host has the device.
            DeviceError: There is no room, or no agent for this device.
            TransientDeviceError: The device cannot be reached.
        """
        wanted = {"runtime": runtime, "runtime_path": runtime_path, "model_lib": model_lib}
        # What is sent disturbs another host's run as a run does. Who has a run to fetch needs no lease for that.
        is_quiet = runtime == "synthetic" or bool(self.open_runs())
        with contextlib.nullcontext() if is_quiet else self._leased(_SENDING_S):
            return bring_model(
                self.transport,
                model,
                wanted,
                hello=self.hello(),
                platform=lambda: self.info().platform,
                size_there=self._size_there(),
                on_progress=on_progress,
            )

    def _size_there(self) -> SizeThere | None:
        """Returns how to ask for a file's size where the transport cannot list."""

        def ask(path: RemotePath) -> int | None:
            try:
                return self.agent().ask("hash", path=str(path), timeout_s=HASH_TIMEOUT_S).integer("bytes")
            except (InvalidArgumentError, StorageError):
                return None

        return ask if self._is_ios else None

    @property
    def _is_ios(self) -> bool:
        return isinstance(self.transport, IosTransport)  # an app of its user's hosts the agent, and there is no shell

    # Runs

    def measure(
        self, model: str, measurement: Measurement, *, output: str, on_event: OnEvent | None = None
    ) -> RunOutcome:
        """Measures a model on the device; the trace is at `output`.

        A run of the same request that this host has started there and not brought back is taken up instead.

        Args:
            model: A model file of this host; a description for the synthetic runtime.
            measurement: What to measure.
            output: Where the trace goes.
            on_event: Told of the progress.

        Raises:
            DeviceBusyError: Another host has the device.
            TransientDeviceError: The device was out of reach for too long. A run that was started goes on.
            MeltError: What went wrong, with its kind.
        """
        tell = on_event or (lambda event: None)
        asked = measurement.request
        brought = self.bring(
            model,
            runtime=asked.get("runtime", "llama.cpp"),
            runtime_path=asked.get("runtime_path"),
            model_lib=asked.get("model_lib"),
            on_progress=lambda done: tell({"event": "push", "done": done}),
        )
        request = {**asked, **brought.fields}
        for entry in self._journal.entries():
            if not entry.asks_the_same(self.uri, request):
                continue
            with self._journal.attended(entry.run):
                if not self._run_of(self.agent(), entry, measurement, None).exists():
                    self._journal.remove(entry.run)
                    continue
            tell({"event": "resume", "run": entry.run})
            return self._finish(replace(entry, output=absolute(output)), measurement, on_event)
        with self._leased():
            gates = self._judged(measurement.limits, brought.file_bytes, tell)
            entry = Entry(
                run=new_run_name(),
                uri=self.uri,
                request=request,
                output=absolute(output),
                model=absolute(model) if brought.sha256 else model,
                model_sha256=brought.sha256,
                metadata=run_metadata(self.transport, self.probe, gates, brought, measurement.metadata),
                started_wall_s=time.time(),
            )
            with self._journal.attended(entry.run):  # before it can be found
                self._journal.add(entry)
                run = self._run_of(self.agent(), entry, measurement, on_event)
                run.start()
                return run.finish()

    def resume(self, run: str, *, output: str | None = None, on_event: OnEvent | None = None) -> RunOutcome:
        """Follows a run that was started before to its end, and brings its trace to `output`, or where it was to go.

        Raises:
            InvalidArgumentError: The journal knows no such run of this device.
            MeltError: As `measure` does.
        """
        entry = self._journal.find(run)
        if entry is None or entry.uri != self.uri:
            raise InvalidArgumentError(f"no run {run!r} of {self.uri} is open: `melt devices runs` lists them")
        placed = entry if output is None else replace(entry, output=absolute(output))
        return self._finish(placed, Measurement(request={}), on_event)

    def open_runs(self) -> list[Entry]:
        """Returns the runs that this host has started here and not brought back."""
        return [entry for entry in self._journal.entries() if entry.uri == self.uri]

    def _finish(self, entry: Entry, measurement: Measurement, on_event: OnEvent | None) -> RunOutcome:
        with self._journal.attended(entry.run):
            run = self._run_of(self.agent(), entry, measurement, on_event)
            try:
                return run.finish()
            finally:
                with contextlib.suppress(MeltError):
                    self.agent().ask("release")

    def _run_of(
        self, agent: AgentClient, entry: Entry, measurement: Measurement, on_event: OnEvent | None
    ) -> DeviceRun:
        return DeviceRun(
            agent=agent,
            transport=self.transport,
            journal=self._journal,
            observer=Observer(agent, self.probe, self._journal, entry.run),
            entry=entry,
            telemetry_s=measurement.telemetry_s,
            poll_s=measurement.poll_s,
            patience=measurement.patience,
            timeout_s=measurement.timeout_s,
            on_event=on_event,
        )

    def _judged(self, limits: GateLimits, model_bytes: int, tell: Callable[[dict[str, Any]], None]) -> GateReport:
        if limits.least_memory_bytes is None:
            limits = replace(limits, least_memory_bytes=model_bytes)
        return pass_gates(
            lambda: retried(
                f"ask {self.uri} how it is", lambda: self.probe.observe(for_gates=True), patience=CONNECT_PATIENCE
            ),
            limits,
            free_bytes=self._free_bytes,
            on_wait=lambda gate, waited: tell({"event": "gate", "gate": gate.name, "detail": gate.detail, "s": waited}),
        )

    def _free_bytes(self) -> int | None:
        hello = self.agent().insist("hello", protocol=PROTOCOL, patience=CONNECT_PATIENCE)
        return hello.integer("free_bytes") if hello.has("free_bytes") else None

    @contextlib.contextmanager
    def _leased(self, ttl_s: int = LEASE_S) -> Iterator[None]:
        """Has the device for this host. Raises: DeviceBusyError names who has it."""
        agent = self.agent()
        agent.insist("lease", ttl_s=ttl_s, patience=CONNECT_PATIENCE)
        try:
            yield
        finally:
            with contextlib.suppress(MeltError):  # it ends by itself
                agent.ask("release")

    # Tidying

    def held_bytes(self) -> dict[str, int]:
        """Returns what lies in the work directory there: bytes of agents, models, runs and the rest."""
        return tidying.held_bytes_by_agent(self.agent()) if self._is_ios else tidying.held_bytes(self.transport)

    def clean(self, *, force: bool = False) -> int:
        """Removes everything from the work directory there, and returns how many bytes that were.

        Args:
            force: Also while a run is open there, whose measurements are then lost.

        Raises:
            InvalidArgumentError: A run is open there.
            DeviceBusyError: Another host has the device.
        """
        still = [entry.run for entry in self.open_runs()]
        if still and not force:
            raise InvalidArgumentError(
                f"{len(still)} runs on {self.uri} were not brought back ({', '.join(still[:3])}): "
                "`melt devices resume` fetches them, --force gives them up"
            )
        held = self.held_bytes()
        if held and not force:
            with self._leased():
                tidying.refuse_while_running(self.agent(), self.uri)
        if self._is_ios:
            tidying.empty_by_agent(self.agent())
        self._end_agent()
        if not self._is_ios:
            tidying.empty(self.transport)
        for run in still:
            self._journal.remove(run)
        return sum(held.values())

    def _end_agent(self) -> None:
        agent, self._agent, self._hello = self._agent, None, None
        if agent is not None:
            agent.close()

    def close(self) -> None:
        """Ends the connection; runs go on. Calling it twice is harmless."""
        self._end_agent()
        self.transport.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(uri: str, *, work_dir: str | None = None) -> Device:
    """Returns a device by its name. Nothing is contacted before it is asked something.

    Args:
        uri: ``local`` (this machine, through the agent), ``adb:SERIAL``, ``ssh:[user@]HOST[:PORT]`` or ``ios:UDID``.
        work_dir: Another work directory there than the transport's own.

    Raises:
        InvalidArgumentError: That names no device.
        MissingExtraError: The package for this transport is not installed.
    """
    return Device(transport_of(parse_uri(uri), work_dir=work_dir))


def transport_of(uri: DeviceUri, *, work_dir: str | None = None) -> Transport:
    """Returns the transport to a device."""
    if uri.kind == "local":
        return LocalTransport(None if work_dir is None else Path(work_dir))
    if uri.kind == "adb":
        return AdbTransport(uri.name) if work_dir is None else AdbTransport(uri.name, work_dir=work_dir)
    if uri.kind == "ssh":
        return SshTransport(uri.name) if work_dir is None else SshTransport(uri.name, work_dir=work_dir)
    return IosTransport(uri.name)
