"""Finds the agent's program for a device among what was built, and brings it and models there, once.

    sha256 of the file -> WORK/agents/melt-agent-<hash>, WORK/models/<hash>-<name>

A name that holds the content's hash is never another content's: what is there is not sent again, and another version
gets another name. The transport gives a file its name only after its hash was checked on the device.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from melt_core.cache import cache_dir
from melt_core.devices.retry import Patience, retried
from melt_core.errors import DeviceError, InvalidArgumentError
from melt_core.models.hashes import sha256_of
from melt_core.transports import RemotePath, Transport

AGENTS = RemotePath.of("agents")
MODELS = RemotePath.of("models")
HASH_DIGITS = 16
TRANSFER_PATIENCE = Patience(attempts=6, total_s=300.0, first_wait_s=0.5, longest_wait_s=15.0)

_LINUX_ARM64 = ("jetson", "linux-arm64", "linux-arm64-gcc")
#: What runs on any device of its platform, and needs nothing to be built.
_PLAINEST = ("android-static", "linux-arm64")

#: Returns the size of a file on the device, None if it is not there.
SizeThere: TypeAlias = Callable[[RemotePath], "int | None"]


@dataclass(frozen=True)
class Platform:
    """What a program must be built for: ``linux`` or ``android``, and the machine as uname names it."""

    system: str
    machine: str

    def __str__(self) -> str:
        return f"{self.system}-{self.machine}"

    @property
    def presets(self) -> tuple[str, ...]:
        """The presets whose agent runs here, the fastest first; last what asks for a newer C library."""
        if self.machine in ("aarch64", "arm64"):
            return ("android-arm64", "android-static") if self.system == "android" else _LINUX_ARM64
        return ("host",) if self.machine == os.uname().machine else ()


@dataclass(frozen=True)
class AgentFile:
    """An agent's program on this host."""

    preset: str
    path: Path


def agent_files(platform: Platform) -> list[AgentFile]:
    """Returns the agents on this host that can run on a platform, the fastest first.

    ``MELT_AGENT`` names one and only one. Otherwise: what ``make cross`` left, in the cache or in a source tree, and
    this machine's own agent for devices of its kind.

    Raises:
        DeviceError: There is none; the message says how to build it.
    """
    chosen = os.environ.get("MELT_AGENT")
    if chosen:
        if not Path(chosen).is_file():
            raise DeviceError(f"MELT_AGENT names {chosen}, which is no file: build it, or unset MELT_AGENT")
        return [AgentFile("MELT_AGENT", Path(chosen))]
    presets = platform.presets
    if platform.machine == os.uname().machine and platform.system == _own_system() and "host" not in presets:
        # In Termux last: what was built there needs its libraries, which other phones have not.
        presets = ("host", *presets) if platform.system == "linux" else (*presets, "host")
    found = [AgentFile(preset, path) for preset in presets for path in _places(preset) if path.is_file()]
    if not found:
        how = "".join(f"`make cross PRESET={preset}`" for preset in presets if preset in _PLAINEST) or "`make setup`"
        where = f"for {platform}: build one with {how}" if presets else f"for {platform}, and no preset builds one"
        raise DeviceError(f"there is no melt-agent {where}, or name one with MELT_AGENT")
    return found


def _own_system() -> str:
    """Returns the system as `Platform` names it; to Python before 3.13, Android is a Linux."""
    return "android" if sys.platform == "android" or "ANDROID_ROOT" in os.environ else sys.platform


def _places(preset: str) -> list[Path]:
    version = package_version()
    places = [cache_dir() / "agents" / version / preset / "melt-agent"]
    source = Path(__file__).parents[3]
    if (source / "CMakeLists.txt").is_file():
        places.insert(0, source / "build/cross" / preset / "melt-agent")
    if preset == "host":
        spec = find_spec("melt_core._core")
        if spec is not None and spec.origin:
            places.insert(0, Path(spec.origin).parent / "agents/host/melt-agent")
    return places


def package_version() -> str:
    """Returns this package's version, which the agent's must equal."""
    version = getattr(import_module("melt_core"), "__version__", None)
    return version if isinstance(version, str) else metadata.version("melt_core")


def deploy_agent(transport: Transport, agent: AgentFile) -> RemotePath:
    """Returns where the agent lies on the device, having sent it if it was not there."""
    digest = sha256_of(agent.path)
    return deploy(transport, agent.path, AGENTS / f"melt-agent-{digest[:HASH_DIGITS]}", executable=True)


def deploy_model(
    transport: Transport,
    model: Path,
    *,
    size_there: SizeThere | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[RemotePath, str]:
    """Returns where the model lies on the device, and its SHA-256, having sent it if it was not there.

    Args:
        transport: The way there.
        model: A file of this host.
        size_there: How to ask for a file's size there; by default the transport is asked.
        on_progress: Told how much of it is sent, 0..1.
    """
    if model.is_dir():
        raise InvalidArgumentError(
            f"{model} is a folder: a model of several files is for the MLC runtime (--runtime mlc)"
        )
    digest = sha256_of(model)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.name)[-120:]
    target = MODELS / f"{digest[:HASH_DIGITS]}-{name}"
    return deploy(transport, model, target, size_there=size_there, on_progress=on_progress), digest


def deploy(
    transport: Transport,
    source: Path,
    target: RemotePath,
    *,
    executable: bool = False,
    size_there: SizeThere | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> RemotePath:
    """Returns `target`, where the file lies on the device, having sent it if no file of its size was there."""

    def listed_size(path: RemotePath) -> int | None:
        sizes = {entry.path: entry.size_bytes for entry in transport.list(path.parent) if entry.kind == "file"}
        return sizes.get(path)

    def send() -> None:
        if (size_there or listed_size)(target) == source.stat().st_size:
            return
        transport.push(
            source,
            target,
            executable=executable,
            on_progress=None if on_progress is None else lambda done, total: on_progress(done / max(total, 1)),
        )

    retried(f"send {source.name} to {transport.uri}", send, patience=TRANSFER_PATIENCE)
    return target
