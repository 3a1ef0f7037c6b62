"""What `pymobiledevice3` 11.45 does for one attached device, after its help and its behaviour without a device.

Commands: `apps push|pull|rm [--documents] BUNDLE ...`, `developer dvt launch [--env K=V] [--no-kill-existing] "BUNDLE
ARGUMENTS"`, `diagnostics battery single`. Errors are log lines on standard error and exit code 1.
FAKE_IOS names a folder: `device.json` describes the device and its faults, `Documents` is the app's folder. Where
`device.json` names an `agent`, the app that is launched is that real agent, serving the mailbox as the app does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(os.environ["FAKE_IOS"])


def fail(message: str) -> NoReturn:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    print(f"{stamp} host pymobiledevice3.__main__[{os.getpid()}] ERROR {message}", file=sys.stderr)
    again = "Run again with -v for the full traceback (include it when reporting an issue)"
    print(f"{stamp} host pymobiledevice3.__main__[{os.getpid()}] INFO {again}", file=sys.stderr)
    raise SystemExit(1)


def on_device(device: dict[str, Any], bundle: str, path: str) -> Path:
    if bundle != device["bundle"]:
        fail("failed to get vend: InstallationLookupFailed")
    parts = Path(path).parts
    if not path.startswith("/Documents/") or ".." in parts:
        fail(f"AfcException: PERM_DENIED {path}")
    return ROOT.joinpath(*parts[1:])


def apps(device: dict[str, Any], arguments: argparse.Namespace) -> None:
    paths = arguments.paths
    if arguments.verb == "push":
        target = on_device(device, arguments.bundle, paths[1])
        if not target.parent.is_dir():
            fail(f"AfcFileNotFoundError: OBJECT_NOT_FOUND for file {paths[1]}")
        data = Path(paths[0]).read_bytes()
        target.write_bytes(data[: device.get("cut_push_at", len(data))])
        return
    source = on_device(device, arguments.bundle, paths[0])
    if not source.exists():
        fail(f"AfcFileNotFoundError: OBJECT_NOT_FOUND for file {paths[0]}")
    if arguments.verb == "rm":
        source.unlink()
    elif device.get("endless_pull"):
        with Path(paths[1]).open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
    else:
        data = source.read_bytes()
        damaged = source.name == device.get("damage_pull_of")
        Path(paths[1]).write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damaged else data)


def launch(device: dict[str, Any], arguments: argparse.Namespace) -> None:
    bundle, *rest = shlex.split(arguments.line)
    if bundle != device["bundle"]:
        fail("Failed to launch process")
    if not device.get("developer_mode", True):
        fail("Failed to start service. Possible reasons are:")
    environment = dict(text.split("=", 1) for text in arguments.env)
    (ROOT / "launched.json").write_text(json.dumps({"arguments": rest, "environment": environment}))
    print(f"Process launched with pid {app(device, arguments.kill_existing) if 'agent' in device else 4711}")


def app(device: dict[str, Any], kill_existing: bool) -> int:
    """Returns the process id of the app, started anew or as it runs."""
    kept = ROOT / "app.pid"
    running = int(kept.read_text()) if kept.exists() else 0
    with contextlib.suppress(ProcessLookupError):
        if running and not kill_existing:
            os.kill(running, 0)
            return running
        if running:
            os.kill(running, signal.SIGKILL)
    command = [device["agent"], "--work", str(ROOT / "Documents"), "--mailbox"]
    with (ROOT / "app.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
        )
    kept.write_text(str(process.pid))
    return process.pid


def main() -> None:
    parser = argparse.ArgumentParser(prog="pymobiledevice3")
    groups = parser.add_subparsers(dest="group", required=True)
    verbs = groups.add_parser("apps").add_subparsers(dest="verb", required=True)
    for verb, count in (("push", 2), ("pull", 2), ("rm", 1)):
        command = verbs.add_parser(verb)
        command.add_argument("bundle")
        command.add_argument("paths", nargs=count)
        command.add_argument("--documents", action="store_true")
        command.add_argument("--udid")
    dvt = groups.add_parser("developer").add_subparsers(required=True).add_parser("dvt").add_subparsers(required=True)
    command = dvt.add_parser("launch")
    command.add_argument("line")
    command.add_argument("--stream", action="store_true")
    command.add_argument("--kill-existing", action=argparse.BooleanOptionalAction, default=True)
    command.add_argument("--env", action="append", default=[])
    command.add_argument("--udid")
    battery = groups.add_parser("diagnostics").add_subparsers(required=True).add_parser("battery")
    command = battery.add_subparsers(required=True).add_parser("single")
    command.add_argument("--udid")
    arguments = parser.parse_args()
    device = json.loads((ROOT / "device.json").read_text())
    if device.get("usbmuxd") == "down":
        fail("Failed to connect to usbmuxd socket. Make sure it's running.")
    if arguments.udid not in (None, device["udid"]):
        fail(f"Device is not connected: {arguments.udid}")
    if arguments.group == "apps":
        apps(device, arguments)
    elif arguments.group == "developer":
        launch(device, arguments)
    else:
        print(json.dumps(device["battery"]))


if __name__ == "__main__":
    main()
