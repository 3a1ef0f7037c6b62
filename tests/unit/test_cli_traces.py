"""The commands that read traces: their output, their exit codes, and one line for every mistake."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from importlib.util import find_spec
from pathlib import Path

import pytest

from fakes.needs import lacking
from fakes.trace_builder import toy_trace
from melt_core.analysis.group import GROUP_KEYS
from melt_core.cli import completion, export, ops
from melt_core.cli.main import COMMANDS, main
from melt_core.report import human
from melt_core.report.export import FORMATS

MELT = [sys.executable, "-c", "import sys; from melt_core.cli import main; sys.exit(main())"]


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.melt"
    path.write_bytes(toy_trace())
    return str(path)


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    data = bytearray(toy_trace())
    data[-100] ^= 0xFF
    path = tmp_path / "damaged.melt"
    path.write_bytes(data)
    return str(path)


def test_lists_agree_with_what_they_stand_for() -> None:
    # The commands keep their own copies so that --help needs no NumPy.
    assert set(ops._KEYS) == set(GROUP_KEYS)
    assert set(export._FORMATS) == set(FORMATS)


def test_ops_json(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", toy, "--by", "op_type", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows[0]) == [
        "key",
        "count",
        "wall_ns",
        "share",
        "compute_ns",
        "wait_ns",
        "bytes",
        "flops",
        "live_bytes",
    ]
    assert [row["key"] for row in rows] == ["MUL_MAT", "SAMPLE", "TOKENIZE", "RMS_NORM+MUL", "GET_ROWS"]
    assert rows[1]["bytes"] is None
    for row in rows:
        assert all(isinstance(row[name], int | None) for name in ("bytes", "flops", "live_bytes"))
    assert (rows[0]["bytes"], rows[0]["flops"], rows[0]["live_bytes"]) == (10 * 4400, 10 * 16000, 4000)


def test_ops_as_text_names_what_has_no_key_and_counts_what_it_says(
    toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("layer", "weight"):
        assert main(["ops", toy, "--by", key]) == 0
        assert any(line.split("  ")[0].strip() == f"(no {key})" for line in capsys.readouterr().out.splitlines())
        assert main(["ops", toy, "--by", key, "--json"]) == 0
        assert None in [row["key"] for row in json.loads(capsys.readouterr().out)]
    assert main(["ops", "--help"]) == 0
    assert "dtype is that of the result" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("key", GROUP_KEYS)
def test_ops_by_everything(toy: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", toy, "--by", key, "--phase", "decode", "--top", "2", "--json"]) == 0
    assert 1 <= len(json.loads(capsys.readouterr().out)) <= 2
    assert main(["ops", toy, "--by", key]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_summary(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", toy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ttft_ms"] == 0.084
    assert main(["summary", toy]) == 0
    assert "overhead, decode    0.50 % slower" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chrome", "speedscope", "csv", "parquet"])
def test_export(toy: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "parquet" and find_spec("pyarrow") is None:
        lacking("pyarrow is not installed: pip install 'melt_core[store]'")
    assert main(["export", toy, "--format", name, "-o", str(tmp_path / "out")]) == 0
    size = (tmp_path / "out").stat().st_size
    assert size > 1000
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: {human.size_bytes(size)}   --run N ")
    assert main(["export", toy, "--format", name, "-o", str(tmp_path / "one"), "--run", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one'}: {human.size_bytes((tmp_path / 'one').stat().st_size)}\n"


def test_report(toy: str, tmp_path: Path) -> None:
    assert main(["report", toy, toy, "-o", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_damage_is_said_on_standard_error(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", damaged, "--json"]) == 0
    captured = capsys.readouterr()
    assert "damaged chunk" in captured.err
    json.loads(captured.out)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 2, "name a command: profile,"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["ops"], 2, "see 'melt ops --help'"),
        (["ops", "TOY", "--by", "colour"], 2, "invalid choice: 'colour'"),
        (["ops", "TOY", "--top", "0"], 2, "ask for at least one row"),
        (["ops", "TOY", "x", "--y"], 2, "unrecognized arguments: x --y; see 'melt ops --help'"),
        (["export", "TOY", "--format", "csv"], 2, "required: -o/--output"),
        (["export", "TOY", "--format", "csv", "-o", "x", "--run", "9"], 2, "the trace has runs 0 to 3"),
        (["summary", "none.melt"], 1, "cannot read none.melt: No such file or directory"),
        (["summary", "/dev/null"], 1, "not a regular file"),
        (["report", "TOY", "-o", "/none/r.html"], 1, "cannot write /none/r.html"),
    ],
)
def test_mistakes_take_one_line(
    toy: str, arguments: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([toy if each == "TOY" else each for each in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("melt: error: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in COMMANDS)
    # in the order in which the README names them
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"The commands, in the order of a first session: (.*?)\. Each\s", readme, re.DOTALL)
    assert re.findall("`([a-z]+)`", listed) == list(COMMANDS)
    assert re.findall(r"^    ([a-z]+)\s", text[text.index("COMMAND\n") :], re.MULTILINE) == list(COMMANDS)


def test_interrupt(toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(ops, "run", interrupted)
    assert main(["ops", toy]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "melt: error: interrupted\n"


def test_a_reader_that_goes_away_is_no_error(toy: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([*MELT, "ops", toy], stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_full_standard_output(toy: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*MELT, "ops", toy], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"melt: error: standard output: No space left on device\n")


def on_a_terminal(columns: int, *arguments: str) -> list[str]:
    """Returns the lines that a command shows on a terminal of this width."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen([*MELT, *arguments], env=environment, stdout=its) as process:
        os.close(its)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return shown.decode().splitlines()


def test_a_wide_terminal_shows_all_columns(toy: str) -> None:
    narrow, wide = (on_a_terminal(columns, "ops", toy, "--by", "weight") for columns in (60, 200))
    assert "no room for: live; use a wider terminal or --json" in narrow
    assert max(map(len, narrow)) <= 80
    assert wide[0].split()[-1] == "live"
    assert not any(line.startswith("no room for: ") for line in wide)


def test_plain_ascii_terminal(tmp_path: Path) -> None:
    data = toy_trace().replace(b"blk.0.ffn_up.weight", "blk.0.ffn_\u00fcp.weigt".encode())
    path = tmp_path / "t.melt"
    path.write_bytes(data)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*MELT, "ops", str(path)], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "op_type" not in completion.__doc__
    assert all(name in script for name in COMMANDS)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True, timeout=60)
        probe = script + "\nCOMP_WORDS=(melt ops --b); COMP_CWORD=2; _melt; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash"], input=probe.encode(), capture_output=True, check=True, timeout=60)
        assert done.stdout == b"--by\n"
