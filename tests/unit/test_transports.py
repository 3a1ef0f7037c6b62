"""The parts of the transports that need no device: confined paths, quoting, packets, public names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melt_core.errors import InvalidArgumentError, MissingExtraError
from melt_core.transports import AdbServer, AdbTransport, RemotePath, adb_wire
from melt_core.transports.quoting import quote, shell_line

#: Any text that an argument can be: no zero byte, no lone surrogates.
ARGUMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "mksh", "fish", "busybox") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=60, deadline=None)
@given(arguments=st.lists(ARGUMENTS, min_size=1, max_size=4))
def test_a_shell_reads_exactly_the_arguments(shell: str, arguments: list[str]) -> None:
    line = shell_line(["printf", "%s\\0", *arguments])
    command = ["busybox", "sh", "-c", line] if shell == "busybox" else [shell, "-c", line]
    said = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
    assert said == b"".join(argument.encode() + b"\0" for argument in arguments)


def test_plain_words_stay_readable() -> None:
    assert shell_line(["ls", "-l", "/data/local/tmp/melt"]) == "exec ls -l /data/local/tmp/melt"
    assert quote("a=b") == "'a=b'"  # at the front of a line it would be an assignment
    assert quote("") == "''"
    assert quote("~") == "'~'"


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "..", "../x", "a/../../x", "a//b", "./x", "a/.", "a/", "a\0b", "x" * 256, "a/" * 1100 + "b"]
)
def test_paths_that_lead_elsewhere(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        RemotePath.of(text)


@given(parts=st.lists(st.text(min_size=1, max_size=20), min_size=0, max_size=5))
def test_a_path_never_leaves_its_folder(parts: list[str]) -> None:
    try:
        path = RemotePath(tuple(parts))
    except InvalidArgumentError:
        return
    on_device = PurePosixPath(path.on_device("/work"))
    assert on_device.is_relative_to("/work")
    assert ".." not in on_device.parts
    assert RemotePath.of(str(path)) == path


def test_path_arithmetic() -> None:
    path = RemotePath.of("runs") / "1" / "trace.melt"
    assert (str(path), path.name, str(path.parent)) == ("runs/1/trace.melt", "trace.melt", "runs/1")
    assert str(path.with_suffix(".part")) == "runs/1/trace.melt.part"
    assert len(RemotePath(("x" * 255,)).with_suffix(".part").name) == 255
    assert path.on_device("/work/") == "/work/runs/1/trace.melt"
    assert RemotePath().on_device("/") == "/"
    assert RemotePath.of("") == RemotePath()
    with pytest.raises(InvalidArgumentError, match="no name"):
        RemotePath().with_suffix(".part")


@given(
    packets=st.lists(st.tuples(st.sampled_from([1, 2, 3, 9]), st.binary(max_size=50)), max_size=8),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=40),
)
def test_packets_arrive_however_they_are_cut(packets: list[tuple[int, bytes]], cuts: list[int]) -> None:
    # GIVEN packets on a wire that delivers them in arbitrary pieces
    wire = b"".join(adb_wire.PACKET.pack(kind, len(data)) + data for kind, data in packets)
    reader = adb_wire.PacketReader()
    got: list[tuple[int, bytes]] = []
    position = 0
    for step in [*cuts, len(wire)]:
        got += reader.feed(wire[position : position + step])
        position += step
    # THEN each kind's bytes come out in order
    for kind in (1, 2, 3, 9):
        assert b"".join(data for k, data in got if k == kind) == b"".join(data for k, data in packets if k == kind)


def test_a_huge_packet_reserves_nothing() -> None:
    reader = adb_wire.PacketReader()
    assert reader.feed(adb_wire.PACKET.pack(1, 0xFFFFFFFF) + b"abc") == [(1, b"abc")]


def test_the_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_HOST", raising=False)
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    assert AdbServer.of_environment() == AdbServer("127.0.0.1", 5037)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "6000")
    monkeypatch.setenv("ANDROID_ADB_SERVER_HOST", "build-host")
    assert AdbServer.of_environment() == AdbServer("build-host", 6000)
    assert AdbServer.of_environment(port=7) == AdbServer("build-host", 7)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "many")
    with pytest.raises(InvalidArgumentError, match="ANDROID_ADB_SERVER_PORT"):
        AdbServer.of_environment()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(MissingExtraError, match=r"melt_core\[adb\]"):
        AdbTransport("x", server=AdbServer("127.0.0.1", 1)).run(["true"])


def test_importing_needs_no_extra() -> None:
    code = (
        "import sys, melt_core.transports\nassert not {'adbutils', 'asyncssh', 'melt_core._core'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
