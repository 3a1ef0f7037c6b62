"""Writes src/melt_core/_core.pyi from the compiled module; with --check, only tells whether it is up to date.

Type checkers read the stub instead of the module. pybind11-stubgen takes the signatures from the module itself, so a
stub that differs from its output is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "src/melt_core/_core.pyi"


def generate() -> str:
    """Returns the stub of the installed melt_core._core; stops if pybind11-stubgen finds a type it cannot name."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pybind11_stubgen", "melt_core._core", "--exit-code", "--output-dir", out]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            sys.exit(f"stubs: pybind11-stubgen failed:\n{done.stdout}{done.stderr}")
        return Path(out, "melt_core", "_core.pyi").read_text(encoding="utf-8")


def main() -> int:
    """Runs the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write src/melt_core/_core.pyi from the compiled module.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and show the diff if it is stale")
    check = parser.parse_args().check
    new = generate()
    old = STUB.read_text(encoding="utf-8") if STUB.is_file() else ""
    if new == old:
        print("stubs: up to date")
        return 0
    if not check:
        STUB.write_text(new, encoding="utf-8")
        print(f"stubs: wrote {STUB}")
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "in the tree", "compiled"))
    print("stubs: stale; run `python tools/stubs.py` and commit the result")
    return 1


if __name__ == "__main__":
    sys.exit(main())
