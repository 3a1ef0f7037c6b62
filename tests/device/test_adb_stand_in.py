"""The adb daemon stand-in, judged by the stock adb program: what holds here would hold on a phone."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import adbutils
import pytest

from fakes.adb_phone import Phone

CONTENT = os.urandom(3_000_001)


def adb(phone: Phone, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return phone.server.adb("-s", phone.serial, *arguments)


def test_shell_keeps_streams_and_exit_code_apart(phone: Phone) -> None:
    done = adb(phone, "shell", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_signal_is_an_exit_code(phone: Phone) -> None:
    assert adb(phone, "shell", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_shell_on_a_terminal(phone: Phone) -> None:
    done = adb(phone, "shell", "-tt", "test -t 0 && echo yes")
    assert done.stdout == b"yes\r\n"


def test_exec_out_is_binary(phone: Phone) -> None:
    (phone.root / "x").write_bytes(CONTENT)
    assert adb(phone, "exec-out", "cat x").stdout == CONTENT


def test_push_pull_and_list(phone: Phone, tmp_path: Path) -> None:
    # WHEN the stock client pushes a folder, lists it and pulls it
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a b").write_bytes(CONTENT)
    (tmp_path / "in/empty").write_bytes(b"")
    assert adb(phone, "push", str(tmp_path / "in"), "/data/local/tmp/x").returncode == 0
    listed = adb(phone, "ls", "/data/local/tmp/x").stdout.decode()
    assert adb(phone, "pull", "/data/local/tmp/x", str(tmp_path / "out")).returncode == 0
    # THEN the bytes are the same on all three ways
    assert (phone.root / "data/local/tmp/x/a b").read_bytes() == CONTENT
    assert (tmp_path / "out/a b").read_bytes() == CONTENT
    assert {line.split(" ", 3)[3] for line in listed.splitlines()} == {".", "..", "a b", "empty"}
    assert f"{len(CONTENT):08x}" in listed


def test_sync_stays_in_the_root(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    adb(phone, "push", str(tmp_path / "x"), "/../../../../escaped")
    assert (phone.root / "escaped").exists()


def test_old_protocol_versions_work_too(phone: Phone, tmp_path: Path) -> None:
    # adbutils speaks version 1 of sync and of the shell
    device = adbutils.AdbClient(host="127.0.0.1", port=phone.server.port).device(phone.serial)
    assert device.sync.push(CONTENT, "/data/y", check=True) == len(CONTENT)
    assert hashlib.sha256(device.sync.read_bytes("/data/y")).digest() == hashlib.sha256(CONTENT).digest()
    assert [entry.path for entry in device.sync.list("/data")] == [".", "..", "y"]
    assert not device.sync.exists("/data/z")
    assert device.shell(["echo", "x"]) == "x"


def test_missing_and_full(phone: Phone, tmp_path: Path) -> None:
    assert b"No such file" in adb(phone, "pull", "/nothing", str(tmp_path)).stderr
    (tmp_path / "x").write_bytes(CONTENT)
    phone.faults.disk_full = True
    done = adb(phone, "push", str(tmp_path / "x"), "/data/x")
    assert done.returncode != 0
    assert b"No space left on device" in done.stdout + done.stderr
    assert not (phone.root / "data/x").exists()


def test_unknown_services_are_refused(phone: Phone) -> None:
    assert adb(phone, "root").returncode != 0


def test_a_command_gets_sighup_when_the_client_goes(phone: Phone) -> None:
    # GIVEN a command that notes the signal, run by a client that is killed
    command = "trap 'echo hup > heard; exit' HUP; echo ready > ready; while :; do sleep 0.05; done"
    client = [adbutils.adb_path(), "-P", str(phone.server.port), "-s", phone.serial, "shell", command]
    with subprocess.Popen(client, env=phone.server.environment, stdin=subprocess.DEVNULL) as process:
        wait_for(phone.root / "ready")
        process.kill()
    wait_for(phone.root / "heard")


@pytest.mark.parametrize("state", ["offline", "unauthorized"])
def test_states(phone: Phone, state: str) -> None:
    phone.plug_out()
    phone.faults.state = state  # type: ignore[assignment]
    phone.attach(state=state)
    assert phone.state() == state


def wait_for(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)
