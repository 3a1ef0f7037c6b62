"""Applies a unified diff to text, strictly: every context line must match, only its line number may have moved.

Used by `third_party.py` instead of `git apply` or `patch`, so that a build needs neither, and because it can say
which hunk of which patch failed and on which line. Renames and binary changes are not understood, and refused, as is
whatever else would be applied in part only.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NOT_UNDERSTOOD = ("rename from ", "copy from ", "GIT binary patch", "Binary files ")


class PatchError(Exception):
    """A patch is malformed or does not fit; the message names the file and the hunk."""


@dataclass(frozen=True)
class Hunk:
    """One change: the lines to find at about line `start` (counted from 1), and those to put there."""

    header: str
    start: int
    before: list[str]
    after: list[str]


@dataclass(frozen=True)
class FilePatch:
    """All changes to one file; `path` is relative to the patched tree."""

    path: str
    hunks: list[Hunk]

    def reversed(self) -> FilePatch:
        """Returns the change that undoes this one."""
        return replace(self, hunks=[replace(h, before=h.after, after=h.before) for h in self.hunks])

    def apply(self, text: str) -> str:
        """Returns `text` with every hunk applied.

        Raises:
            PatchError: a hunk's lines are not there.
        """
        lines = _lines(text)
        shift = 0  # how far earlier hunks, and lines new upstream, have moved the rest
        for number, hunk in enumerate(self.hunks, start=1):
            expected = max(hunk.start - 1, 0) + shift
            # Without a line to find, a hunk would fit anywhere: it is for an empty file, or one that is not there yet.
            found = _find(lines, hunk.before, expected) if hunk.before or not lines else None
            if found is None:
                raise PatchError(f"{self.path}: hunk {number} of {len(self.hunks)} ({hunk.header}) does not apply")
            lines[found : found + len(hunk.before)] = hunk.after
            shift += found - expected + len(hunk.after) - len(hunk.before)
        return "".join(lines)


def parse(text: str) -> list[FilePatch]:
    """Returns the file changes in a unified diff, skipping the prose before each `---` line.

    Raises:
        PatchError: nothing to apply, a path that leaves the tree, a hunk that has not the lines that it counts, or what
            is not understood.
    """
    lines = _lines(text)
    if lines and not lines[-1].endswith("\n"):
        raise PatchError("the patch is cut short: its last line has no end")
    files: list[FilePatch] = []
    at = 0
    while at < len(lines):
        if _is_file_header(lines, at):
            path = _tree_path(lines[at + 1])
            if path in (file.path for file in files):
                raise PatchError(f"{path} is changed in two places of the patch: put its hunks together")
            files.append(FilePatch(path, []))
            at += 2
        elif lines[at].startswith(_NOT_UNDERSTOOD):
            raise PatchError(f"line {at + 1} of the patch is not understood: {lines[at].strip()}")
        elif files and lines[at].startswith("@@"):
            hunk, at = _parse_hunk(lines, at)
            files[-1].hunks.append(hunk)
        else:
            at += 1
    if not any(file.hunks for file in files):
        raise PatchError("no hunk found: is this a unified diff?")
    return files


def _lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline="\n"))  # str.splitlines() would split at form feeds too


def _tree_path(line: str) -> str:
    name = line[4:].split("\t")[0].strip()
    path = PurePosixPath(*PurePosixPath(name).parts[1:])  # drop the leading "b/"
    if name.startswith("/") or ".." in path.parts or not path.parts:
        raise PatchError(f"unsupported target {name!r}: want b/<path inside the tree>")
    return str(path)


def _is_file_header(lines: list[str], at: int) -> bool:
    return lines[at].startswith("--- ") and "".join(lines[at + 1 : at + 2]).startswith("+++ ")


def _parse_hunk(lines: list[str], at: int) -> tuple[Hunk, int]:
    match = _HUNK.match(lines[at])
    if match is None:
        raise PatchError(f"line {at + 1} of the patch is no hunk header: {lines[at].strip()}")
    start, n_before, n_after = (int(group) if group else 1 for group in match.groups())
    before: list[str] = []
    after: list[str] = []
    sides = {" ": (before, after), "-": (before,), "+": (after,)}
    mark = ""
    at += 1
    while at < len(lines):
        line = lines[at]
        if line[0] == "\\" and mark:  # "\ No newline at end of file", of the line before
            for side in sides[mark]:
                side[-1] = side[-1].removesuffix("\n")
        elif len(before) >= n_before and len(after) >= n_after:
            break
        else:
            # an empty context line whose blank an editor has stripped
            mark, rest = (" ", "\n") if line == "\n" else (line[0], line[1:])
            if mark not in sides:
                break
            for side in sides[mark]:
                side.append(rest)
        at += 1
    if (len(before), len(after)) != (n_before, n_after) or _goes_on(lines, at):
        raise PatchError(f"hunk {match.group()} has not the lines that it counts, up to line {at + 1} of the patch")
    return Hunk(match.group(), start, before, after), at


def _goes_on(lines: list[str], at: int) -> bool:
    """Returns whether line `at`, the first after a hunk, looks like one more of it, which would be lost."""
    signature = "".join(lines[at : at + 1]).rstrip() == "--"  # of a mail by `git format-patch`
    return at < len(lines) and lines[at][0] in " +-" and not signature and not _is_file_header(lines, at)


def _find(lines: list[str], wanted: list[str], expected: int) -> int | None:
    """Returns the place nearest to `expected` where `wanted` stands, or None."""
    last = len(lines) - len(wanted)
    for place in sorted(range(last + 1), key=lambda index: abs(index - expected)):
        if lines[place : place + len(wanted)] == wanted:
            return place
    return None
