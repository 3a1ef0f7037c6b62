"""What a device needs before a run: the model's files there, and what the trace is to say of device and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melt_core.devices.agent import Reply
from melt_core.devices.agents import Platform, SizeThere, deploy_model
from melt_core.devices.gates import GateReport
from melt_core.devices.mlc import deploy_folder, deploy_tvm, read_folder
from melt_core.devices.probe import Probe
from melt_core.errors import DeviceError, InvalidArgumentError
from melt_core.transports import Transport


@dataclass(frozen=True)
class Brought:
    """A model that is on the device.

    Attributes:
        fields: What the request to the agent says of it: ``model``, and for MLC ``runtime_path`` and ``model_lib``.
        sha256: What identifies it; empty for what is no file.
        file_bytes: Its size on this host.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    file_bytes: int = 0


def bring_model(
    transport: Transport,
    model: str,
    request: Mapping[str, Any],
    *,
    hello: Reply,
    platform: Callable[[], Platform],
    size_there: SizeThere | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Brought:
    """Returns a model on the device, having sent what was not there.

    Args:
        transport: The way there.
        model: A file or MLC directory of this host; a description for the synthetic runtime.
        request: What is asked of it: ``runtime``, ``runtime_path`` and ``model_lib`` are used.
        hello: What the agent said of itself.
        platform: Asked what the device is, where that matters.
        size_there: How to ask for a file's size there; None where the transport can list.
        on_progress: Told how much of it is sent, 0..1.

    Raises:
        InvalidArgumentError: The model is none for this runtime, or libraries are missing or for another processor.
        DeviceError: There is no room, or the agent there can load no library.
        TransientDeviceError: The device cannot be reached.
    """
    runtime = request.get("runtime", "llama.cpp")
    if runtime == "synthetic":
        return Brought({"model": model})
    path = Path(model)
    if runtime != "mlc":
        if request.get("runtime_path") or request.get("model_lib"):
            raise InvalidArgumentError(f"runtime_path and model_lib are of the runtime mlc, this is {runtime}")
        remote, digest = deploy_model(transport, path, size_there=size_there, on_progress=on_progress)
        return Brought({"model": str(remote)}, digest, path.stat().st_size)
    if size_there is not None:
        raise DeviceError(f"{transport.uri} runs no model of several files: its app holds one runtime, llama.cpp")
    _check_loads_libraries(transport.uri, hello)
    library = Path(request["model_lib"]) if request.get("model_lib") else None
    folder = read_folder(path, library=library)
    runtime_there = deploy_tvm(transport, request.get("runtime_path") or "", platform())
    there = deploy_folder(transport, folder, on_progress=on_progress)
    fields = {"model": str(there), "runtime_path": runtime_there}
    if library is not None:
        fields["model_lib"] = str(there / library.name)
    return Brought(fields, folder.sha256, folder.file_bytes)


def _check_loads_libraries(uri: str, hello: Reply) -> None:
    """Raises DeviceError for an agent that is linked without a loader of libraries."""
    if hello.mapping("build").get("libc") == "musl":
        raise DeviceError(
            f"the agent on {uri} is a static program (android-static) and can load no library, which the MLC runtime "
            "is: build it with the NDK (`make cross PRESET=android-arm64`), or name one with MELT_AGENT"
        )


def run_metadata(
    transport: Transport, probe: Probe, gates: GateReport, brought: Brought, own: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns what the trace is to say that the agent cannot know."""
    metadata: dict[str, Any] = {**(own or {}), "transport": transport.uri.partition(":")[0]}
    if brought.sha256:
        metadata["model_file"] = {"sha256": brought.sha256, "file_bytes": brought.file_bytes}
    info = probe.info()
    metadata["device_info"] = {
        "model": info.model,
        "soc": info.soc,
        "os": info.os,
        "platform": str(info.platform),
    }
    mode = probe.power_mode() if info.platform.system == "linux" else None
    if mode is not None:
        metadata["device_info"]["power_mode"] = mode.name
    metadata["gates"] = gates.to_metadata()
    metadata["warnings"] = gates.warnings()
    return metadata
