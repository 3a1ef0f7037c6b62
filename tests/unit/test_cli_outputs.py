"""Where commands read from and write to: outputs that are inputs, pipes, closed streams, and names that cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from fakes.trace_builder import toy_trace
from melt_core.cli.main import main
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.meters import read_csv
from melt_core.trace import Trace

MELT = [sys.executable, "-c", "import sys; from melt_core.cli import main; sys.exit(main())"]
#: No command here takes as long; one that waits for somebody does.
SOON_S = 60

CSV = ["--format", "csv"]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.melt"
    path.write_bytes(toy_trace())
    return path


def melt_process(*arguments: object, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    """Runs a command in a process of its own; `shell` is what the shell is to do with its streams."""
    script = f'exec "$@" {shell}'
    command = ["sh", "-c", script, "sh", *MELT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=SOON_S, check=False)


# An output that is an input


@pytest.mark.parametrize("spelling", ["same", "dots", "symbolic link", "hard link"])
@pytest.mark.parametrize("command", ["export", "report", "second of report"])
def test_an_output_that_is_an_input_is_refused(
    command: str, spelling: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = toy.read_bytes()
    output = {"same": toy, "dots": toy.parent / ".." / toy.parent.name / toy.name}.get(spelling, toy.parent / "other")
    if spelling == "symbolic link":
        output.symlink_to(toy)
    elif spelling == "hard link":
        output.hardlink_to(toy)
    other = toy.with_name("second.melt")
    other.write_bytes(before)
    given = {"export": [str(toy), *CSV], "report": [str(toy)], "second of report": [str(other), str(toy)]}[command]
    assert main([command.split()[-1], *given, "-o", str(output)]) == 2
    captured = capsys.readouterr()
    assert "the output is the input; name another file" in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert toy.read_bytes() == before
    assert output.samefile(toy)


def test_the_api_refuses_it_too(toy: Path) -> None:
    trace = Trace.open(toy)
    with pytest.raises(InvalidArgumentError, match="output is the input"):
        trace.export(toy, format="chrome")
    with pytest.raises(InvalidArgumentError, match="output is the input"):
        melt.report(trace, toy)
    assert toy.read_bytes() == toy_trace()


# What is no regular file


def test_a_pipe_as_an_input_is_refused_without_waiting_for_a_writer(toy: Path) -> None:
    pipe = toy.with_name("pipe")
    os.mkfifo(pipe)
    output = toy.with_name("j.melt")
    for arguments in (
        ["summary", pipe],
        ["meter", "join", toy, pipe, "-o", output],
        ["profile", "layers=1", "--runtime", "synthetic", "--prompt-from", pipe],
    ):
        done = melt_process(*arguments)
        assert done.returncode == 1
        assert b"not a regular file" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["export", "report"])
def test_standard_output_is_written_to_directly(command: str, toy: Path) -> None:
    options = CSV if command == "export" else []
    expected = toy.with_name("expected")
    assert main([command, str(toy), *options, "-o", str(expected)]) == 0
    # a pipe
    done = melt_process(command, toy, *options, "-o", "/dev/stdout", shell="| cat")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(expected.read_bytes())
    # a file that something is in already
    log = toy.with_name("log")
    log.write_bytes(b"before\n")
    done = melt_process(command, toy, *options, "-o", "/dev/stdout", shell=f">> '{log}'")
    assert (done.returncode, done.stderr) == (0, b"")
    assert log.read_bytes().startswith(b"before\n" + expected.read_bytes())


def test_nothing_comes_behind_an_export_to_standard_output(toy: Path) -> None:
    done = melt_process("export", toy, *CSV, "-o", "/dev/stdout", shell="| cat")
    assert done.stdout.decode().splitlines()[-1].count(",") == done.stdout.decode().splitlines()[0].count(",")


# Streams


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, toy: Path) -> None:
    done = melt_process("ops", toy, shell=closed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"MUL_MAT" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    done = melt_process("ops", toy.with_name("missing"), shell=closed)
    assert done.returncode == 1
    assert (b"No such file" in done.stderr) == ("2>&-" not in closed)
    # nothing that is opened later takes the place of a stream
    output = toy.with_name("out.csv")
    assert melt_process("export", toy, *CSV, "-o", output, shell=closed).returncode == 0
    assert output.read_bytes().startswith(b"run,token,")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["ops", "TOY"], ["--help"], ["ops", "--help"]])
def test_a_full_standard_output_is_named(arguments: list[str], toy: Path) -> None:
    done = melt_process(*(toy if each == "TOY" else each for each in arguments), shell="> /dev/full")
    assert (done.returncode, done.stderr) == (1, b"melt: error: standard output: No space left on device\n")


def test_ctrl_c_while_modules_are_imported_takes_one_line(toy: Path) -> None:
    # GIVEN a command that is interrupted within its import of NumPy, whose C part makes an ImportError of it
    script = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "datetime":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.modules.pop("datetime", None)
from melt_core.cli import main
assert "numpy" not in sys.modules
sys.meta_path.insert(0, Finder())
sys.exit(main(["summary", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", script, toy], capture_output=True, timeout=SOON_S, check=False)
    assert (done.returncode, done.stderr) == (130, b"melt: error: interrupted\n")


def test_ctrl_c_while_the_command_itself_is_imported_takes_one_line() -> None:
    script = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "melt_core.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import melt_core.cli
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=SOON_S, check=False)
    assert (done.returncode, done.stderr) == (130, b"melt: error: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_as_ctrl_c_does(number: signal.Signals, toy: Path) -> None:
    # GIVEN a command that waits for whoever reads its output
    pipe = toy.with_name("pipe")
    os.mkfifo(pipe)
    with subprocess.Popen([*MELT, "export", toy, *CSV, "-o", pipe], stderr=subprocess.PIPE) as command:
        wait_for_open(command, pipe)
        command.send_signal(number)
        _, err = command.communicate(timeout=SOON_S)
    assert (command.returncode, err) == (128 + number, f"melt: error: ended by {number.name}\n".encode())


def wait_for_open(command: subprocess.Popen[bytes], pipe: Path) -> None:
    """Returns once the process is in the open() of the pipe, as /proc says, or has had the time for it."""
    wchan = Path(f"/proc/{command.pid}/wchan")
    for _ in range(200):
        time.sleep(0.02)
        if wchan.exists() and wchan.read_text() in ("wait_for_partner", "fifo_open"):
            return


# Names that cannot be


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["summary", ""], 1, "cannot read '': the name is empty"),
        (["profile", ""], 2, "the model's name is empty"),
        (["profile", "layers=1", "--runtime", "synthetic", "-o", ""], 1, "cannot write '': the name is empty"),
        (["models", "inspect", ""], 2, "the model's name is empty"),
        (["models", "convert", "x", "--runtime", "mlc", "--quant", "q4f16_1", "-o", ""], 2, "name is empty"),
        (["export", "TOY", *CSV, "-o", ""], 1, "cannot write '': the name is empty"),
        (["report", "TOY", "-o", ""], 1, "cannot write '': the name is empty"),
        (["sustain", "--show", ""], 2, "the folder's name is empty"),
        (["meter", "join", "TOY", "", "-o", "x"], 1, "cannot read '': the name is empty"),
        (["profile", "http://example.org/m.gguf"], 2, "http://example.org/m.gguf is a URL"),
        (["models", "inspect", "https://example.org/m.gguf"], 2, "only local files"),
        (["summary", "a" * 300], 1, f"{'a' * 300}: File name too long"),
        (["models", "inspect", "a" * 300], 1, f"{'a' * 300}: File name too long"),
        (["export", "TOY", *CSV, "-o", "a" * 300], 1, f"{'a' * 300}: File name too long"),
        (["profile", "layers=1", "--runtime", "synthetic", "-o", "a" * 300], 1, f"{'a' * 300}: File name too long"),
        (["meter", "record", "monsoon", "-o", "a" * 300], 1, f"{'a' * 300}: File name too long"),
        (["profile", "layers=1", "--runtime", "synthetic", "--gate-wait", "nan"], 2, "--gate-wait nan"),
        (["profile", "layers=1", "--runtime", "synthetic", "--gate-wait", "-1"], 2, "--gate-wait -1"),
        (["memory", "TOY", "--ctx", "-1"], 2, "--ctx -1"),
        (["memory", "--frontier", "TOY", "--max-seconds", "nan"], 2, "max_seconds is nan"),
        (["memory", "--frontier", "TOY", "--max-seconds", "-1"], 2, "max_seconds is -1"),
        (["energy", "TOY", "--seed", "-1"], 2, "--seed -1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_takes_one_line(
    arguments: list[str], code: int, says: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(toy) if each == "TOY" else each for each in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("melt: error: ")
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", ["\ud800", "a\0b", ""])
def test_the_api_names_what_no_file_can_be_called(name: str, toy: Path) -> None:
    trace = Trace.open(toy)
    calls: list[Callable[[], object]] = [
        lambda: Trace.open(name),
        lambda: trace.save(name),
        lambda: trace.export(name, format="csv"),
        lambda: melt.report(trace, name),
        lambda: read_csv(name),
    ]
    for call in calls:
        with pytest.raises(StorageError) as raised:
            call()
        message = str(raised.value)
        assert repr(name) in message
        assert message.isprintable()


def test_a_process_that_may_open_no_more_files_says_so(toy: Path) -> None:
    script = f"""
import resource, sys
import melt_core.trace.trace, melt_core.analysis.summary, melt_core.report.text, melt_core.cli.summary
from melt_core.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
sys.exit(main(["summary", {str(toy)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=SOON_S, check=False)
    assert done.returncode == 1
    assert done.stderr == f"melt: error: cannot read {toy}: Too many open files\n".encode()
