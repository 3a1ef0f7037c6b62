"""Counting instructions with valgrind's callgrind: what the benchmarks that count share.

The same work takes the same instructions each time, whatever else the machine does. callgrind knows AVX2 and nothing
newer, so what is counted is compiled for that (`build(..., portable=True)`).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def callgrind(command: Sequence[str | Path], *options: str) -> tuple[str, list[str]]:
    """Runs a command; returns what it printed, and callgrind's dumps as text."""
    if shutil.which("valgrind") is None:
        raise SystemExit("needs valgrind: install it (Debian, Ubuntu: apt install valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--tool=callgrind", "--compress-strings=no", f"--callgrind-out-file={folder}/out", *options]
        arguments = ["valgrind", *settings, *map(str, command)]
        done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout, [path.read_text() for path in sorted(Path(folder).iterdir())]


def instructions(dump: str) -> Counter[str]:
    """Returns the instructions of each function itself, as valgrind's manual describes the format of a dump."""
    total: Counter[str] = Counter()
    function, is_call = "", False
    for line in dump.splitlines():
        if line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            is_call = True  # the next line is what the called function cost, which has its own lines
        elif line.startswith(("+", "-", "*")) or line[:1].isdigit():
            if not is_call:
                total[function] += int(line.split()[1])
            is_call = False
    return total
