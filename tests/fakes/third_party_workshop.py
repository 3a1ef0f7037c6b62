"""A small repository with a pin, patches and archives of its own: tools/third_party.py runs in it as users run it."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 120
STAMP = ".melt-prepared.json"
LINES = [f"line {number}\n" for number in range(1, 31)]
#: Upstream's tree; the build reads all but the documents.
TREE = {"CMakeLists.txt": "project(toy)\n", "src/a.c": "".join(LINES), "src/b.c": "int b;\n", "docs/x.md": "# x\n"}
READ = {path: text for path, text in TREE.items() if not path.startswith("docs")}

PIN = {"purpose": "a test", "licence": "MIT", "version": "2.0", "package": "toy-lib", "package_version": "1.0",
       "tree": "vendor/toy", "commit_file": "HEAD", "parts": ["CMakeLists.txt", "src"]}  # fmt: skip
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
METADATA = "Metadata-Version: 2.1\nName: toy-lib\nVersion: 1.0\n"
#: The archive's own code: pip runs it to read the archive's metadata. It waits for as long as there is a file "hold".
BACKEND = f"""
METADATA = {METADATA!r}
import os, pathlib, time
def prepare_metadata_for_build_wheel(folder, settings=None):
    with open(os.environ["ARCHIVE_RAN"], "a") as log:
        log.write("ran ")
    while os.path.exists(os.environ["HOLD"]):
        time.sleep(0.02)
    info = pathlib.Path(folder, "toy_lib-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    return info.name
"""
#: Runs the tool argv[2:], which is killed when half of its write number argv[1] is on disk.
KILLED = """
import os, pathlib, runpy, signal, sys
left, sys.argv = [int(sys.argv[1])], sys.argv[2:]
whole = pathlib.Path.write_bytes
def write_bytes(path, content):
    left[0] -= 1
    if left[0] == 0:
        whole(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, content)
pathlib.Path.write_bytes = write_bytes
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def diff(path: str, old: str, new: str) -> str:
    """Returns a patch as `diff -u` writes it."""
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return "Why: a test\n\n" + "".join(lines)


def edited(*numbers: int) -> str:
    """Returns a.c with these lines changed."""
    return "".join(line.replace("line", "edit") if at in numbers else line for at, line in enumerate(LINES, start=1))


def contents(folder: Path) -> dict[str, str]:
    """Returns the files of a mirror but for its stamp."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != STAMP]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def looks_whole(mirror: Path) -> bool:
    stamp = mirror / STAMP
    return stamp.is_file() and stamp.read_bytes() != b""


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Workshop:
    """A repository with one pin and its patches, a cache, and a folder of archives that pip finds."""

    def __init__(self, root: Path) -> None:
        self.root, self.mirror = root, root / "mirror"
        tools = ("tools/third_party.py", "tools/unified_diff.py", "src/melt_core/cache.py")
        for name in (*tools, "src/melt_core/models/pypi.py"):
            self.put(f"repository/{name}", (REPOSITORY / name).read_text())
        (root / "tmp").mkdir()
        self.archive()
        self.variables = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "MELT_"))}
        self.variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(root / "dist"), "PIP_CONFIG_FILE": os.devnull}
        self.variables |= {"MELT_CACHE_DIR": str(root / "cache"), "TMPDIR": str(root / "tmp")}
        self.variables |= {"ARCHIVE_RAN": str(root / "ran"), "HOLD": str(root / "hold")}

    @property
    def cached(self) -> list[str]:
        """What lies in the cache and does not begin with a dot: trees that count."""
        return [path.name for path in (self.root / "cache/third_party").glob("[!.]*")]

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def patch(self, name: str, *diffs: str) -> None:
        self.put(f"repository/third_party/patches/toy.lib/{name}", "".join(diffs))

    def own_tree(self, changes: dict[str, str] | None = None) -> Path:
        for path, text in {**TREE, **(changes or {})}.items():
            self.put(f"own/{path}", text)
        return self.root / "own"

    def archive(self, kind: str = "sdist", more: dict[str, str | Path] | None = None) -> Path:
        """Makes an archive with more members and pins it; a path stands for a link to it."""
        top, name = ("toy_lib-1.0/", "toy_lib-1.0.tar.gz") if kind == "sdist" else ("", "toy_lib-1.0-py3-none-any.whl")
        own = {"pyproject.toml": PROJECT, "backend.py": BACKEND, "HEAD": "c0ffee\n"}  # of an sdist
        own |= {"toy_lib-1.0.dist-info/METADATA": METADATA, "toy_lib-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\n"}
        own |= {f"vendor/toy/{path}": text for path, text in TREE.items()}
        path = self.put(f"dist/{name}", "")
        with tarfile.open(path, "w:gz") if kind == "sdist" else zipfile.ZipFile(path, "w") as archive:
            for name, text in {**{top + name: text for name, text in own.items()}, **(more or {})}.items():
                if isinstance(archive, zipfile.ZipFile):
                    archive.writestr(name, str(text))
                    continue
                info = tarfile.TarInfo(name)
                if isinstance(text, Path):
                    info.type, info.linkname = tarfile.SYMTYPE, str(text)
                else:
                    info.size = len(text)
                archive.addfile(info, io.BytesIO(str(text).encode()))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        pin = {**PIN, "kind": kind, "file": path.name, "sha256": sha256}
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in pin.items()]  # as TOML has them too
        self.put("repository/third_party/pins.toml", '["toy.lib"]\n' + "".join(lines))
        return path

    def start(self, *arguments: object, killed_at: int = 0) -> subprocess.Popen[str]:
        command = [str(self.root / "repository/tools/third_party.py"), *map(str, arguments)]
        command = [sys.executable, *(["-c", KILLED, str(killed_at)] if killed_at else []), *command]
        return subprocess.Popen(
            command, env=self.variables, text=True, start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: object, killed_at: int = 0) -> tuple[int, str, str]:
        """Returns the tool's exit code, output and messages."""
        child = self.start(*arguments, killed_at=killed_at)
        out, messages = child.communicate(timeout=TIMEOUT_S)
        assert "Traceback" not in messages, messages
        return child.returncode, out, messages

    def prepare(self, *arguments: object, killed_at: int = 0) -> tuple[int, str, str]:
        return self.run("prepare", "toy.lib", "--out", self.mirror, *arguments, killed_at=killed_at)
