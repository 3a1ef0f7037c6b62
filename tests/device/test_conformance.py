"""What every transport does alike, on the real parts: this host's shell, the stock adb server, a real ssh server."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from pathlib import Path

import pytest

from melt_core.errors import CancelledError, DeviceError, InvalidArgumentError, StorageError, TransientDeviceError
from melt_core.transports import RemotePath, Transport

CONTENT = bytes(range(256)) * 9000 + b"the end"  # 2.3 MB: more than one chunk, and no multiple of any block

#: What a shell, an option parser or a line-based listing could trip over.
HOSTILE_NAMES = [
    "-rf a'b\"c;touch PWNED;$(touch PWNED) `touch PWNED` && | > <\n\\ \\\\ * ? [a-z] ~ # ! %s%n \t\x1b[31m\N{SNOWMAN} ",
    "--help",
    "*",
    "~root",
    "\n",
]


@pytest.fixture
def mark() -> str:
    """A number of seconds that no other program on this host sleeps."""
    return str(10**6 + secrets.randbelow(10**6))


def source(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "source.bin"
    path.write_bytes(content)
    return path


def test_run_returns_both_streams_and_the_exit_code(transport: Transport) -> None:
    # WHEN a program writes to both streams and fails
    result = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    # THEN all three come back as they were
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
    assert result.text == "out\n"


def test_run_feeds_binary_input(transport: Transport) -> None:
    assert transport.run(["cat"], stdin=CONTENT).stdout == CONTENT


def test_missing_program_is_exit_code_127(transport: Transport) -> None:
    result = transport.run(["no-such-program-here"])
    assert result.exit_code == 127
    assert b"no-such-program-here" in result.stderr


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    arguments = [*HOSTILE_NAMES, "", "$0", "${PATH}", "'", '"', "\\"]
    result = transport.run(["printf", "%s|", *arguments])
    assert result.stdout.decode() == "".join(f"{argument}|" for argument in arguments)


def test_output_streams_while_the_program_runs(transport: Transport) -> None:
    seen: list[tuple[str, bytes, float]] = []
    start = time.monotonic()
    transport.run(
        ["sh", "-c", "echo first; sleep 0.6; echo second"],
        on_output=lambda stream, data: seen.append((stream, data, time.monotonic() - start)),
    )
    assert [data for _, data, _ in seen] == [b"first\n", b"second\n"]
    assert seen[1][2] - seen[0][2] > 0.3


def test_run_times_out_and_ends_the_program(transport: Transport, mark: str) -> None:
    # WHEN a program takes longer than it may
    with pytest.raises(TransientDeviceError, match=r"timed out after 0\.5 s"):
        transport.run(["sleep", mark], timeout_s=0.5)
    # THEN it does not run on
    assert gone(transport, mark)


def test_run_is_cancelled_from_another_thread(transport: Transport, mark: str) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.4, cancel.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        transport.run(["sleep", mark], cancel=cancel)
    timer.join()
    assert time.monotonic() - start < 10
    assert gone(transport, mark)


def test_endless_output_is_stopped(transport: Transport) -> None:
    with pytest.raises(DeviceError, match="wrote more than 100000 bytes") as caught:
        transport.run(["sh", "-c", "while :; do echo 3073 3073 3073; done"], max_output_bytes=100_000)
    assert not isinstance(caught.value, TransientDeviceError)


def test_a_callers_error_ends_the_program(transport: Transport, mark: str) -> None:
    def fail(stream: str, data: bytes) -> None:
        time.sleep(0.3)  # until the program is there: qemu-user forgets a signal that comes while it starts one
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        transport.run(["sh", "-c", "echo x; exec sleep $0", mark], on_output=fail)
    assert gone(transport, mark)


def test_push_and_pull_bring_the_same_bytes(transport: Transport, tmp_path: Path) -> None:
    # WHEN a file goes there and back
    told: list[tuple[int, int]] = []
    pushed = transport.push(
        source(tmp_path), RemotePath.of("models/deep/x.gguf"), on_progress=lambda done, size: told.append((done, size))
    )
    pulled = transport.pull(pushed.path, tmp_path / "back.bin")
    # THEN it is the same, and both say so
    assert (tmp_path / "back.bin").read_bytes() == CONTENT
    assert pushed.sha256 == pulled.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert pushed.moved_bytes == pulled.moved_bytes == len(CONTENT)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [entry.path.name for entry in transport.list(RemotePath.of("models/deep"))] == ["x.gguf"]


def test_what_is_there_already_is_not_sent(transport: Transport, tmp_path: Path) -> None:
    path = source(tmp_path)
    transport.push(path, RemotePath.of("x"))
    assert transport.push(path, RemotePath.of("x")).moved_bytes == 0
    transport.pull(RemotePath.of("x"), tmp_path / "y")
    assert transport.pull(RemotePath.of("x"), tmp_path / "y").moved_bytes == 0


def test_same_size_and_other_content_is_replaced(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path, b"one"), RemotePath.of("x"))
    transport.push(source(tmp_path, b"two"), RemotePath.of("x"))
    transport.pull(RemotePath.of("x"), tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == b"two"


def test_empty_file(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path, b""), RemotePath.of("empty"))
    transport.pull(RemotePath.of("empty"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_pushed_program_runs(transport: Transport, tmp_path: Path) -> None:
    path = RemotePath.of("bin/hello")
    transport.push(source(tmp_path, b"#!/bin/sh\necho hello from $1\n"), path, executable=True)
    assert transport.run(["sh", transport.resolve(path), "here"]).stdout == b"hello from here\n"
    assert transport.run(["test", "-x", transport.resolve(path)]).exit_code == 0


def test_hostile_names_are_only_names(transport: Transport, tmp_path: Path) -> None:
    # GIVEN files whose names a shell could read as more, one of them in a folder of such a name
    paths = [RemotePath((name,)) for name in HOSTILE_NAMES[1:]]
    paths.append(RemotePath((HOSTILE_NAMES[0], HOSTILE_NAMES[0])))
    for path in paths:
        transport.push(source(tmp_path, path.name.encode()), path)
    # WHEN they are listed, pulled and removed, THEN they were names all along
    assert {entry.path.name for entry in transport.list(RemotePath())} == set(HOSTILE_NAMES)
    (entry,) = transport.list(RemotePath((HOSTILE_NAMES[0],)))
    assert (entry.path, entry.kind, entry.size_bytes) == (paths[-1], "file", len(HOSTILE_NAMES[0].encode()))
    for path in paths:
        transport.pull(path, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == path.name.encode()
        transport.remove(RemotePath(path.parts[:1]))
    assert transport.list(RemotePath()) == ()
    assert transport.run(["test", "-e", "PWNED"]).exit_code == 1


def test_list_tells_kinds(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path, b"1234"), RemotePath.of("folder/file"))
    transport.run(["ln", "-s", "nowhere", transport.resolve(RemotePath.of("link"))])
    entries = {str(entry.path): entry for entry in transport.list(RemotePath())}
    assert {path: entry.kind for path, entry in entries.items()} == {"folder": "folder", "link": "link"}
    assert abs(entries["folder"].modified_s - time.time()) < 600
    assert transport.list(RemotePath.of("nothing/here")) == ()


def test_missing_files_are_named(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"there is no file .*nothing"):
        transport.pull(RemotePath.of("nothing"), tmp_path / "x")
    with pytest.raises(StorageError, match="cannot read"):
        transport.push(tmp_path / "nothing", RemotePath.of("x"))
    with pytest.raises(InvalidArgumentError, match="not a file"):
        transport.push(tmp_path, RemotePath.of("x"))
    with pytest.raises(InvalidArgumentError, match="not the work directory itself"):
        transport.push(source(tmp_path), RemotePath())
    transport.remove(RemotePath.of("nothing"))
    assert not (tmp_path / "x").exists()


def test_too_large_a_file_is_refused_before_it_comes(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path), RemotePath.of("x"))
    with pytest.raises(DeviceError, match="more than the 1000 allowed"):
        transport.pull(RemotePath.of("x"), tmp_path / "y", max_bytes=1000)
    assert not list(tmp_path.glob("y*"))


def test_pull_into_a_missing_folder_is_an_error_of_storage(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path), RemotePath.of("x"))
    with pytest.raises(StorageError, match="cannot write"):
        transport.pull(RemotePath.of("x"), tmp_path / "no/folder/y")


def test_cancelled_push_goes_on_where_it_stopped(transport: Transport, tmp_path: Path) -> None:
    # GIVEN a push that was cancelled when part of it was there
    content = CONTENT * 8
    cancel = threading.Event()

    def stop(done: int, size: int) -> None:
        if size // 2 < done < size:
            cancel.set()

    with pytest.raises(CancelledError):
        transport.push(source(tmp_path, content), RemotePath.of("x"), on_progress=stop, cancel=cancel)
    assert [entry.path.name[-5:] for entry in transport.list(RemotePath())] == [".part"]
    # WHEN it is called again
    pushed = transport.push(tmp_path / "source.bin", RemotePath.of("x"))
    # THEN only the rest travels, and the part file is gone
    assert pushed.resumed_from_bytes > 0
    assert pushed.moved_bytes == len(content) - pushed.resumed_from_bytes
    assert [entry.path.name for entry in transport.list(RemotePath())] == ["x"]


def test_pull_goes_on_where_it_stopped(transport: Transport, tmp_path: Path) -> None:
    transport.push(source(tmp_path), RemotePath.of("x"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / f"y.{digest[:16]}.part").write_bytes(CONTENT[:1_000_001])
    pulled = transport.pull(RemotePath.of("x"), tmp_path / "y")
    assert pulled.resumed_from_bytes == 1_000_001
    assert (tmp_path / "y").read_bytes() == CONTENT


def test_damaged_parts_are_found_and_removed(transport: Transport, tmp_path: Path) -> None:
    # GIVEN parts on both sides whose bytes are not those of the file
    digest = hashlib.sha256(CONTENT).hexdigest()
    transport.push(source(tmp_path, b"\0" * 100_000), RemotePath.of(f"x.{digest[:16]}.part"))
    path = source(tmp_path)
    # WHEN a transfer goes on from there, THEN the hash tells, and the next one begins anew
    with pytest.raises(TransientDeviceError, match="arrived damaged"):
        transport.push(path, RemotePath.of("x"))
    assert transport.push(path, RemotePath.of("x")).resumed_from_bytes == 0
    (tmp_path / f"y.{digest[:16]}.part").write_bytes(b"\0" * 1000)
    with pytest.raises(TransientDeviceError, match="arrived damaged"):
        transport.pull(RemotePath.of("x"), tmp_path / "y")
    assert transport.pull(RemotePath.of("x"), tmp_path / "y").resumed_from_bytes == 0


def test_too_long_a_part_begins_anew(transport: Transport, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"short").hexdigest()
    transport.push(source(tmp_path), RemotePath.of(f"x.{digest[:16]}.part"))
    assert transport.push(source(tmp_path, b"short"), RemotePath.of("x")).moved_bytes == 5


def test_channel_answers_line_by_line(transport: Transport) -> None:
    with transport.open_channel(["sh", "-c", 'while read -r line; do echo "got $line"; done; echo bye >&2']) as channel:
        for number in range(3):
            channel.send(f"line {number}".encode())
            assert channel.receive() == f"got line {number}".encode()


def test_channel_has_long_lines_and_a_bound(transport: Transport) -> None:
    with transport.open_channel(["cat"]) as channel:
        line = b"x" * ((1 << 20) - 1)
        for _ in range(2):
            channel.send(line)
            assert channel.receive() == line
        with pytest.raises(InvalidArgumentError, match="fewer than"):
            channel.send(line + b"x")
        with pytest.raises(InvalidArgumentError, match="no newline"):
            channel.send(b"two\nlines")


def test_channel_stops_an_endless_line(transport: Transport) -> None:
    with transport.open_channel(["sh", "-c", "yes 3076307630763076 | tr -d '\\n'"]) as channel:
        with pytest.raises(DeviceError, match="more than 1048576 bytes"):
            channel.receive()
        with pytest.raises(TransientDeviceError, match="closed"):
            channel.receive()


def test_channel_tells_how_the_program_ended(transport: Transport) -> None:
    with transport.open_channel(["sh", "-c", "echo one; echo why >&2; exit 3"]) as channel:
        assert channel.receive() == b"one"
        with pytest.raises(TransientDeviceError, match="exit code 3: why"):
            channel.receive()
        assert channel.errors == "why\n"
    with (
        transport.open_channel(["no-such-program-here"]) as channel,
        pytest.raises(DeviceError, match="cannot run") as caught,
    ):
        channel.receive()
    assert not isinstance(caught.value, TransientDeviceError)


def test_channel_times_out_and_stays_usable(transport: Transport) -> None:
    with transport.open_channel(["cat"]) as channel:
        with pytest.raises(TransientDeviceError, match=r"timed out after 0\.3 s"):
            channel.receive(timeout_s=0.3)
        channel.send(b"still here")
        assert channel.receive() == b"still here"


def test_closing_a_channel_ends_the_program(transport: Transport, mark: str) -> None:
    channel = transport.open_channel(["sh", "-c", "echo on; exec sleep $0", mark])
    assert channel.receive() == b"on"
    channel.close()
    channel.close()
    assert gone(transport, mark)


def test_detached_program_survives(transport: Transport) -> None:
    # GIVEN a program that was detached as the agent detaches its runs
    path = transport.resolve(RemotePath.of("alive"))
    script = '(trap "" HUP; sleep 0.8; echo yes > "$1") >/dev/null 2>&1 </dev/null & echo started'
    with transport.open_channel(["sh", "-c", script, "sh", path]) as channel:
        assert channel.receive() == b"started"
    # THEN the end of the channel does not end it
    assert eventually(lambda: transport.run(["cat", path]).stdout == b"yes\n")


def test_bad_commands(transport: Transport) -> None:
    for argv in ([], [""], ["-x"], "a string", ["a\0b"], ["a", "b\0"]):
        with pytest.raises(InvalidArgumentError):
            transport.run(argv)


def test_closing_twice_is_harmless_and_a_later_call_connects_anew(transport: Transport) -> None:
    transport.close()
    transport.close()
    assert transport.run(["echo", "x"]).stdout == b"x\n"


def gone(transport: Transport, mark: str) -> bool:
    """Returns whether no program with this argument runs any more, after at most some seconds."""
    script = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " "'
    return eventually(lambda: f"sleep {mark}" not in transport.run(["sh", "-c", script]).text)


def eventually(holds: object, *, within_s: float = 10.0) -> bool:
    assert callable(holds)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False
