"""tools/unified_diff.py: a patch is applied whole, in its place, or not at all."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from fakes.third_party_workshop import REPOSITORY

HEAD = "--- a/f\n+++ b/f\n"
#: What would be applied in part, or elsewhere, and what is said about it.
REFUSED = (
    ("prose\n", "no hunk found"),
    ("--- a/../f\n+++ b/../f\n@@ -1 +1 @@\n-a\n+b\n", "unsupported target"),
    ("--- a/f\n+++ /etc/f\n@@ -1 +1 @@\n-a\n+b\n", "unsupported target"),
    ("--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "unsupported target"),
    (
        HEAD + "@@ -1 +1 @@\n-a\n+b\nrename from g\nrename to h\n",
        "line 6 of the patch is not understood: rename from g",
    ),
    (HEAD + "@@ -1 +1 @@\n-a\n+b\nGIT binary patch\n", "not understood"),
    (HEAD + "@@ -1,2 +1,2 @@\n-a\n+b\n", "has not the lines that it counts"),
    (HEAD + "@@ -1 +1 @@\n-a\n+b\n+c\n", "has not the lines that it counts"),
    (HEAD + "@@ -1 +1 @@\n-a\n+b\n@@ -9 +9\n-c\n+d\n", "no hunk header"),
    ((HEAD + "@@ -1 +1 @@\n-a\n+b\n") * 2, "changed in two places"),
    (HEAD + "@@ -1 +1 @@\n-a\n+b", "cut short"),
)
NO_END = "\\ No newline at end of file\n"
#: A patch, the file before and after it, and one that it fits neither way.
APPLIED = (
    ("--- /dev/null\n+++ b/f\n@@ -0,0 +1,2 @@\n+a\n+b\n", "", "a\nb\n", "another\n"),
    (HEAD + "@@ -1 +0,0 @@\n-a\n", "a\n", "", "another\n"),
    (HEAD + f"@@ -1,2 +1,2 @@\n a\n-b\n{NO_END}+c\n{NO_END}-- \n2.39.5\n", "a\nb", "a\nc", "a\nb\n"),
)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of tools/."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    return importlib.import_module


class TestUnifiedDiff:
    @pytest.mark.parametrize(("text", "message"), REFUSED)
    def test_what_would_be_applied_in_part_is_refused(
        self, tools: Callable[[str], Any], text: str, message: str
    ) -> None:
        with pytest.raises(tools("unified_diff").PatchError, match=message):
            tools("unified_diff").parse(text)

    @pytest.mark.parametrize(("text", "before", "after", "elsewhere"), APPLIED)
    def test_what_fits_is_applied_and_undone_and_only_there(
        self, tools: Callable[[str], Any], text: str, before: str, after: str, elsewhere: str
    ) -> None:
        (file,) = tools("unified_diff").parse(text)
        assert (file.apply(before), file.reversed().apply(after)) == (after, before)
        for direction in (file, file.reversed()):
            with pytest.raises(tools("unified_diff").PatchError, match="hunk 1 of 1"):
                direction.apply(elsewhere)
