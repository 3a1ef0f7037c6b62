"""Applies a unified diff to text, strictly: every context line must match, only its line number may have moved.

Used by `third_party.py` instead of `git apply` or `patch`, so that a build needs neither, and because it can say
which hunk of which patch failed and on which line. Renames and binary changes are not understood.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


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
            found = _find(lines, hunk.before, expected)
            if found is None:
                raise PatchError(f"{self.path}: hunk {number} of {len(self.hunks)} ({hunk.header}) does not apply")
            lines[found : found + len(hunk.before)] = hunk.after
            shift += found - expected + len(hunk.after) - len(hunk.before)
        return "".join(lines)


def parse(text: str) -> list[FilePatch]:
    """Returns the file changes in a unified diff, skipping the prose before each `---` line.

    Raises:
        PatchError: nothing to apply, a path that leaves the tree, or a hunk cut short.
    """
    lines = _lines(text)
    files: list[FilePatch] = []
    at = 0
    while at < len(lines):
        if lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            files.append(FilePatch(_tree_path(lines[at + 1]), []))
            at += 2
        elif files and (match := _HUNK.match(lines[at])):
            hunk, at = _parse_hunk(lines, at, match)
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


def _parse_hunk(lines: list[str], at: int, match: re.Match[str]) -> tuple[Hunk, int]:
    start, n_before, n_after = (int(group) if group else 1 for group in match.groups())
    before: list[str] = []
    after: list[str] = []
    at += 1
    while len(before) < n_before or len(after) < n_after:
        if at == len(lines) or lines[at][0] not in " +-\n":
            raise PatchError(f"hunk {match.group()} ends early, at line {at + 1} of the patch")
        mark, rest = lines[at][0], lines[at][1:]
        if mark == "\n":  # an empty context line whose blank an editor has stripped
            mark, rest = " ", "\n"
        if mark in " -":
            before.append(rest)
        if mark in " +":
            after.append(rest)
        at += 1
    return Hunk(match.group(), start, before, after), at


def _find(lines: list[str], wanted: list[str], expected: int) -> int | None:
    """Returns the place nearest to `expected` where `wanted` stands, or None."""
    last = len(lines) - len(wanted)
    for place in sorted(range(last + 1), key=lambda index: abs(index - expected)):
        if lines[place : place + len(wanted)] == wanted:
            return place
    return None
