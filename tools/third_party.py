"""Fetches, checks and patches the third-party source trees pinned in third_party/pins.toml.

    fetch NAME            download and unpack into the cache, print the folder
    prepare NAME --out D  mirror the tree into D, patched; CMake calls this at every configure
    verify                prepare everything in a scratch folder: do archives match and patches apply?

Data path: pins.toml -> pip download -> sha256 -> cache (pristine) -> patched mirror in the build tree. The mirror is
incremental: a file is written only if its bytes change, so that editing one patch recompiles one file.
Standard library only; see third_party/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unified_diff

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip brings its own copy, and without pip nothing could be fetched anyway
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
STAMP = ".melt-prepared.json"  # empty while a tree is being made
COMMIT = ".melt-upstream-commit"


class ThirdPartyError(Exception):
    """A pin, an archive, an override or a patch is unusable; the message says which and what to do."""


def load_from_package(path: str) -> Any:
    """Returns a module of the package, loaded by path because melt_core is not installed yet."""
    spec = importlib.util.spec_from_file_location(f"melt_{Path(path).stem}", ROOT / "src/melt_core" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


pypi = load_from_package("models/pypi.py")
cache_dir = load_from_package("cache.py").cache_dir


@dataclass(frozen=True)
class Pin:
    """One table of pins.toml."""

    name: str
    purpose: str
    licence: str
    version: str
    kind: str
    package: str
    package_version: str
    file: str
    sha256: str
    tree: str
    backend: str = ""
    commit_file: str = ""
    parts: tuple[str, ...] = ()

    @property
    def override_variable(self) -> str:
        """The environment variable that names the user's own tree, as MELT_LLAMA_CPP_DIR."""
        return f"MELT_{re.sub('[.-]', '_', self.name.upper())}_DIR"

    @property
    def patches(self) -> list[Path]:
        """The patches in the order in which they apply."""
        return sorted((ROOT / "third_party/patches" / self.name).glob("*.patch"))


def load_pins() -> dict[str, Pin]:
    """Returns pins.toml by name."""
    tables = tomllib.loads((ROOT / "third_party/pins.toml").read_text(encoding="utf-8"))
    pins = {}
    for name, table in tables.items():
        if table["kind"] not in ("sdist", "wheel"):
            raise ThirdPartyError(f"pins.toml: {name} has kind {table['kind']!r}; 'sdist' and 'wheel' are understood")
        pins[name] = Pin(name=name, **{**table, "parts": tuple(table.get("parts", ()))})
    return pins


def say(message: str) -> None:
    """Reports progress on stderr; stdout is for results."""
    print(f"third_party: {message}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time work on `path`; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- fetch: archive -> pristine tree in the cache


def fetch(pin: Pin) -> Path:
    """Returns the pristine tree of `pin` in the cache, downloading and unpacking it if it is not there."""
    base: Path = cache_dir() / "third_party"
    tree = base / f"{pin.name}-{pin.version}-{pin.sha256[:12]}"
    if tree.is_dir():
        return tree
    with locked(tree):
        if tree.is_dir():  # another process was faster
            return tree
        prefix = f".{tree.name}.fetch-"
        for left_over in base.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(dir=base, prefix=prefix) as scratch:
            backend = pin.backend if pin.kind == "sdist" else None
            file = pypi.PypiFile(pin.package, pin.package_version, pin.file, pin.sha256, sdist_backend=backend)
            archive = pypi.download(file, Path(scratch))
            say(f"unpacking {pin.tree} of {pin.file}")
            unpacked = Path(scratch, "tree")
            (unpack if pin.kind == "sdist" else unpack_wheel)(archive, pin, unpacked)
            unpacked.replace(tree)  # whole or absent, never half
    return tree


def unpack(archive: Path, pin: Pin, target: Path) -> None:
    """Writes the plain files below `pin.tree` of `archive` into `target`, and upstream's commit id beside them.

    Written out by hand, file by file: no link, device, owner or mode of the archive can do anything on this machine.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")  # below the archive's one top folder
            inner = path.removeprefix(f"{pin.tree}/")
            _check_inside(archive, member.name, inner)
            if pin.commit_file and member.isfile() and path == pin.commit_file:
                _write(target / COMMIT, _content(tar, member))
            if inner == path or not member.isfile() or inner.split("/")[0] == ".git":
                continue
            _write(target / inner, _content(tar, member))
    if not target.is_dir():
        raise ThirdPartyError(f"{archive.name} holds no files below {pin.tree}: is `tree` in pins.toml right?")


def unpack_wheel(archive: Path, pin: Pin, target: Path) -> None:
    """Writes the files below `pin.tree` of a wheel into `target`, by hand as `unpack` does."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            inner = name.removeprefix(f"{pin.tree}/")
            _check_inside(archive, name, inner)
            if inner == name or name.endswith("/"):
                continue
            _write(target / inner, wheel.read(name))
    if not target.is_dir():
        raise ThirdPartyError(f"{archive.name} holds no files below {pin.tree}: is `tree` in pins.toml right?")


def _check_inside(archive: Path, *paths: str) -> None:
    """Refuses an archive with a path that could lead out of the folder it is unpacked into, wanted or not."""
    if any(path.startswith("/") or ".." in path.split("/") for path in paths):
        raise ThirdPartyError(f"{archive.name} holds a path outside its own tree: {paths[0]}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None  # it is a plain file
    return stream.read()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# --- prepare: pristine tree, or the user's own -> patched mirror


def prepare(pin: Pin, out: Path, *, override: str, only: list[str]) -> None:
    """Makes `out` a patched mirror of the pinned tree, or of the user's own tree `override`, which is only read."""
    source = Path(override).expanduser().resolve() if override else fetch(pin)
    wanted = listing(source, pin)
    commit = _commit_of(source)
    with locked(out):
        stamp = out / STAMP
        if out.exists() and not stamp.exists() and any(out.iterdir()):
            raise ThirdPartyError(f"{out} holds files that are not ours, and would be emptied: choose another --out")
        previous = stamp.read_bytes() if stamp.exists() else b""
        _write(stamp, b"")
        patched, states = apply_patches(pin, source, only=only)
        changed = mirror(source, out, wanted=wanted | set(patched), patched=patched)
        origin = str(source) if override else f"{pin.package} {pin.package_version}"
        facts = {"name": pin.name, "version": pin.version, "commit": commit, "origin": origin, "patches": states}
        stamp.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if changed or stamp.read_bytes() != previous:
            say(f"{pin.name} from {origin}: {changed} files updated")
            for name, state in states.items():
                say(f"  {name}: {state}")


def listing(source: Path, pin: Pin) -> set[str]:
    """Returns the paths, relative to `source`, of the files that the build reads."""
    if not source.is_dir():
        raise ThirdPartyError(f"{source} is not a folder: check {pin.override_variable}")
    paths: set[str] = set()
    for part in pin.parts or ("",):
        start = source / part
        if not start.exists():
            raise ThirdPartyError(f"{source} has no {part}: is it a {pin.name} tree? (check {pin.override_variable})")
        found = [start] if start.is_file() else [path for path in start.rglob("*") if path.is_file()]
        paths.update(str(path.relative_to(source)) for path in found)
    return paths - {COMMIT, STAMP}


def apply_patches(pin: Pin, source: Path, *, only: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Returns the patched content by path, and what became of each patch: "applied", or "upstream has it"."""
    contents: dict[str, str] = {}
    states: dict[str, str] = {}
    if unknown := set(only) - {patch.name.split("-")[0] for patch in pin.patches}:
        raise ThirdPartyError(f"{pin.name} has no patch {' '.join(sorted(unknown))}")
    for patch in pin.patches:
        if only and patch.name.split("-")[0] not in only:
            continue
        try:
            files = unified_diff.parse(_text(patch))
            before = {file.path: contents.get(file.path, _text(source / file.path)) for file in files}
            after = _patched(files, before)
        except unified_diff.PatchError as error:
            advice = f"Rework the patch for {source}, or go back to the pinned tree"
            raise ThirdPartyError(f"{patch.relative_to(ROOT)}: {error}. {advice}") from error
        states[patch.name] = "upstream has it" if after == before else "applied"
        contents.update(after)
    return {path: _bytes(text) for path, text in contents.items()}, states


def _patched(files: list[unified_diff.FilePatch], before: dict[str, str]) -> dict[str, str]:
    """Returns the files after the patch, or as they are if all of it can be undone, that is, upstream has it."""
    try:
        for file in files:
            file.reversed().apply(before[file.path])
    except unified_diff.PatchError:
        return {file.path: file.apply(before[file.path]) for file in files}
    return before


def _text(path: Path) -> str:
    # surrogateescape: bytes that are not UTF-8 come back unchanged; a missing file is one that the patch creates
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def mirror(source: Path, out: Path, *, wanted: set[str], patched: dict[str, bytes]) -> int:
    """Makes `out` hold the `wanted` files and no others; returns how many were written or removed.

    Bytes are compared, not times: a file that changes back must look new to the build tool.
    """
    changed = 0
    for target in sorted(
        out.rglob("*"), reverse=True
    ):  # first what goes, inner before outer: a file may take its place
        if target.is_dir() and not target.is_symlink():
            if not any(target.iterdir()):
                target.rmdir()
        elif str(target.relative_to(out)) not in wanted | {STAMP}:
            target.unlink()
            changed += 1
    for path in sorted(wanted):
        content = patched[path] if path in patched else (source / path).read_bytes()
        target = out / path
        if not (target.is_file() and target.read_bytes() == content):
            _write(target, content)
            changed += 1
    return changed


def _commit_of(source: Path) -> str:
    """Returns the upstream commit of a tree: as unpacked, else as its own git says, else "unknown"."""
    recorded = source / COMMIT
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8").strip()
    git = shutil.which("git")
    if git is None or not (source / ".git").exists():
        return "unknown"
    # Not `git describe --dirty`, which writes .git/index even where it is told to take no locks.
    asking = [git, "--no-optional-locks", "-C", str(source)]
    head, changes = (
        subprocess.run([*asking, *question], capture_output=True, text=True, timeout=60, check=False)
        for question in (["rev-parse", "--verify", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    if head.returncode != 0 or changes.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changes.stdout else "")


def verify(pins: dict[str, Pin]) -> None:
    """Prepares every pin in a scratch folder, so that a pin or patch that has gone bad shows before a release."""
    for pin in pins.values():
        with tempfile.TemporaryDirectory() as scratch:
            prepare(pin, Path(scratch, pin.name), override="", only=[])
        say(f"{pin.name} {pin.version}: ok")


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Fetch, check and patch the pinned third-party trees.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download and unpack into the cache; prints the folder")
    fetching.add_argument("name", choices=names)
    preparing = commands.add_parser("prepare", help="mirror the tree into a folder, with our patches applied")
    preparing.add_argument("name", choices=names)
    preparing.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder; what else is in it goes")
    preparing.add_argument("--only", nargs="+", default=[], metavar="NNNN", help="apply these patches and no others")
    preparing.add_argument("--whole", action="store_true", help="the whole tree, not only what the library is built of")
    preparing.add_argument("--from", dest="override", metavar="DIR", help="your own tree (default: MELT_<NAME>_DIR)")
    commands.add_parser("verify", help="check every pin and that its patches apply")
    return parser


def main() -> int:
    """Runs one command; returns the exit code."""
    try:
        pins = load_pins()
        args = _parser(sorted(pins)).parse_args()
        if args.command == "verify":
            verify(pins)
        elif args.command == "fetch":
            print(fetch(pins[args.name]))
        else:
            pin = pins[args.name]
            override = args.override or os.environ.get(pin.override_variable, "")
            wanted = dataclasses.replace(pin, parts=()) if args.whole else pin
            prepare(wanted, args.out.resolve(), override=override, only=args.only)
    except (ThirdPartyError, pypi.FetchError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"third_party: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
