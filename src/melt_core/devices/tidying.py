"""What lies in a device's work directory, and removing it."""

from __future__ import annotations

from melt_core.devices.agent import AgentClient
from melt_core.errors import InvalidArgumentError
from melt_core.transports import RemoteFile, RemotePath, Transport

_WORK = RemotePath(())
_FOLDERS = ("agents", "models", "runs")
_DEEPEST = 3


def held_bytes(transport: Transport) -> dict[str, int]:
    """Returns bytes by folder: agents, models, runs and other; empty for an empty work directory."""
    held: dict[str, int] = {}
    for entry in transport.list(_WORK):
        name = entry.path.name if entry.path.name in _FOLDERS else "other"
        held[name] = held.get(name, 0) + _bytes_of(transport, entry, 0)
    return held


def _bytes_of(transport: Transport, entry: RemoteFile, depth: int) -> int:
    if entry.kind != "folder":
        return entry.size_bytes if entry.kind == "file" else 0
    if depth > _DEEPEST:
        return 0
    return sum(_bytes_of(transport, one, depth + 1) for one in transport.list(entry.path))


def held_bytes_by_agent(agent: AgentClient) -> dict[str, int]:
    """Returns the same where only the agent can list, as on iOS."""
    held: dict[str, int] = {}
    for file in agent.ask("files").objects("files"):
        top = file.text("path").partition("/")[0]
        name = top if top in _FOLDERS else "other"
        held[name] = held.get(name, 0) + file.integer("bytes")
    return held


def empty_by_agent(agent: AgentClient) -> None:
    """Removes runs and files where only the agent can; the folders that hosts push into stay."""
    for run in agent.ask("runs").objects("runs"):
        agent.ask("delete", run=run.text("run", most=64))
    for file in agent.ask("files").objects("files"):
        path = file.text("path")
        if not path.startswith(("mailbox/", ".")):
            agent.ask("remove", path=path)


def refuse_while_running(agent: AgentClient, uri: str) -> None:
    """Raises InvalidArgumentError if something runs there."""
    for one in agent.ask("runs").objects("runs"):
        if one.text("state", most=32) in ("queued", "running"):
            run = one.text("run", most=64)
            raise InvalidArgumentError(f"run {run} is going on on {uri}: wait for it, or use --force")


def empty(transport: Transport) -> None:
    """Removes everything from the work directory; the transport lets nothing outside of it be named."""
    for entry in transport.list(_WORK):
        transport.remove(entry.path)
