"""tools/third_party.py on a small repository of its own: what it refuses, and that nothing half-made looks whole.

The tools run as users and CMake run them. Archives are made here and reach pip through PIP_FIND_LINKS; no network.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes.needs import lacking
from fakes.third_party_workshop import (
    READ,
    REPOSITORY,
    STAMP,
    TIMEOUT_S,
    TREE,
    Workshop,
    contents,
    diff,
    edited,
    looks_whole,
    wait_for,
)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    yield Workshop(tmp_path)
    (tmp_path / "hold").unlink(missing_ok=True)  # of a test that failed: what waits goes on and ends


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of tools/."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    return importlib.import_module


class TestPatches:
    def test_a_hunk_that_does_not_apply_stops_and_is_named(self, workshop: Workshop) -> None:
        # GIVEN a mirror, and then one more patch of two files whose last hunk does not fit
        tree, mirror = workshop.own_tree(), workshop.mirror
        workshop.patch("0001-good.patch", diff("src/a.c", TREE["src/a.c"], edited(2)))
        assert workshop.prepare("--from", tree)[0] == 0
        before = contents(mirror)
        bad = diff("src/a.c", edited(2), edited(2, 10, 25)).replace("-line 25", "-line of another version")
        workshop.patch("0002-bad.patch", diff("src/b.c", TREE["src/b.c"], "int c;\n"), bad)
        for fresh in (False, True):
            if fresh:
                shutil.rmtree(mirror)
            # WHEN it is prepared again, or anew
            code, _, messages = workshop.prepare("--from", tree)
            # THEN that is an error that names patch, file and hunk, no file is changed, and the mirror is not whole
            assert code == 1
            assert "third_party/patches/toy.lib/0002-bad.patch: src/a.c: hunk 2 of 2 (@@ -22,7 +22,7 @@)" in messages
            assert f"Rework the patch for {tree}" in messages
            assert contents(mirror) == ({} if fresh else before)
            assert not looks_whole(mirror)

    def test_one_that_the_tree_contains_is_skipped_and_that_is_said(self, workshop: Workshop) -> None:
        # GIVEN a tree that contains the first of two patches, some lines further down
        tree = workshop.own_tree({"src/a.c": "new upstream\n" * 5 + edited(2), "src/b.c": "int c;\n"})
        both = diff("src/b.c", TREE["src/b.c"], "int c;\n")
        workshop.patch("0001-known.patch", diff("src/a.c", TREE["src/a.c"], edited(2)), both)
        workshop.patch("0002-new.patch", diff("src/a.c", edited(2), edited(2, 20)))
        # WHEN it is prepared
        code, _, messages = workshop.prepare("--from", tree)
        # THEN the first changes nothing, the second applies, and both is said, in the stamp too
        assert code == 0
        assert "0001-known.patch: upstream has it" in messages
        assert "0002-new.patch: applied" in messages
        states = {"0001-known.patch": "upstream has it", "0002-new.patch": "applied"}
        assert json.loads((workshop.mirror / STAMP).read_text())["patches"] == states
        assert contents(workshop.mirror)["src/a.c"] == "new upstream\n" * 5 + edited(2, 20)
        # BUT a tree that contains one half of it is none that it fits
        workshop.put("own/src/b.c", "int b;\n")
        code, _, messages = workshop.prepare("--from", tree)
        assert (code, "0001-known.patch: src/a.c: hunk 1 of 1" in messages) == (1, True)

    def test_a_changed_one_rewrites_only_the_file_that_it_touches(self, workshop: Workshop) -> None:
        tree, mirror = workshop.own_tree(), workshop.mirror

        def touched() -> set[str]:
            code, _, messages = workshop.prepare("--from", tree)
            assert code == 0, messages
            now = {path: (mirror / path).stat().st_mtime_ns for path in contents(mirror)}
            for path in now:
                os.utime(mirror / path, ns=(1, 1))
            return {path for path, time_ns in now.items() if time_ns != 1}

        workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(2)))
        workshop.patch("0002-b.patch", diff("src/b.c", TREE["src/b.c"], "int c;\n"))
        assert touched() == set(READ)
        assert touched() == set()
        workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(3)))
        assert touched() == {"src/a.c"}
        (workshop.root / "repository/third_party/patches/toy.lib/0002-b.patch").unlink()
        assert touched() == {"src/b.c"}
        assert contents(mirror) == {**READ, "src/a.c": edited(3)}
        # A file becomes a folder upstream, and the folder a file again.
        (tree / "src/b.c").unlink()
        workshop.put("own/src/b.c/inner.c", "int inner;\n")
        assert touched() == {"src/b.c/inner.c"}
        shutil.rmtree(tree / "src/b.c")
        workshop.put("own/src/b.c", "int b;\n")
        assert touched() == {"src/b.c"}


class TestOwnTree:
    def test_it_is_read_and_never_written(self, workshop: Workshop) -> None:
        # GIVEN a clone, read-only, in which git would like to note new times of files
        if shutil.which("git") is None:
            lacking("no git")
        tree, mirror = workshop.own_tree(), workshop.mirror
        git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            subprocess.run([*git, *words], check=True, timeout=TIMEOUT_S)
        os.utime(tree / "src/a.c", ns=(10**18, 10**18))
        workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(2)))
        for path in [tree, *tree.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)

        def state() -> dict[Path, tuple[int, bytes]]:
            found = [tree, *tree.rglob("*")]
            return {path: (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes()) for path in found}

        before = state()
        # WHEN it is prepared by option, by variable, and with all that is in it
        by_option = workshop.prepare("--from", tree)
        workshop.variables["MELT_TOY_LIB_DIR"] = str(tree)
        by_variable = workshop.prepare()
        whole = workshop.run("prepare", "toy.lib", "--whole", "--out", workshop.root / "whole")
        # THEN only the mirror is patched, and no byte or time of the tree is another one
        assert (by_option[0], by_variable[0], whole[0]) == (0, 0, 0), by_option[2] + by_variable[2] + whole[2]
        assert state() == before
        assert contents(mirror) == {**READ, "src/a.c": edited(2)}
        assert (workshop.root / "whole/docs/x.md").is_file()
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        assert json.loads((mirror / STAMP).read_text())["commit"] == head
        # AND an edit of it is told from the commit
        (tree / "src/b.c").chmod(0o644)
        (tree / "src/b.c").write_text("int mine;\n")
        assert workshop.prepare()[0] == 0
        assert json.loads((mirror / STAMP).read_text())["commit"] == f"{head}-dirty"
        assert contents(mirror)["src/b.c"] == "int mine;\n"

    def test_what_is_no_such_tree_or_no_mirror_of_ours(self, workshop: Workshop) -> None:
        tree = workshop.own_tree()
        kept = workshop.put("mirror/mine.txt", "mine")
        code, _, messages = workshop.prepare("--from", tree)
        assert (code, "holds files that are not ours" in messages) == (1, True)
        assert contents(kept.parent) == {"mine.txt": "mine"}
        for wrong in (tree / "docs", tree / "missing"):
            code, _, messages = workshop.run("prepare", "toy.lib", "--out", workshop.root / "new", "--from", wrong)
            assert (code, "MELT_TOY_LIB_DIR" in messages, str(wrong) in messages) == (1, True, True)
            assert not (workshop.root / "new").exists()


INSIDE = "toy_lib-1.0/vendor/toy/"
#: Names of members; {in} is the folder that is unpacked.
LEADING_OUT = ("../evil", "{in}../../../../evil", "{root}/evil", "{in}{root}/evil")


class TestArchives:
    def test_one_of_another_hash_is_refused_before_it_is_used(self, workshop: Workshop) -> None:
        # GIVEN an archive that is not the pinned one
        archive = workshop.archive()
        pinned = archive.read_bytes()
        archive.write_bytes(pinned[:-1] + b"x")
        # WHEN it is fetched, or to be mirrored
        for code, out, messages in (workshop.run("fetch", "toy.lib"), workshop.prepare()):
            # THEN it is refused by name, its code has not run, and nothing is in the cache or the mirror
            assert (code, out) == (1, "")
            assert "what pip found as toy_lib-1.0.tar.gz is not the pinned file" in messages
            assert hashlib.sha256(pinned).hexdigest() in messages
            left = [path for path in (workshop.root / "cache").rglob("*") if path.is_file() and path.stat().st_size]
            assert (left, workshop.cached, workshop.mirror.exists()) == ([], [], False)
            assert not (workshop.root / "ran").exists()
        # BUT the pinned one is unpacked, and pip has run its code: the test would have seen that
        archive.write_bytes(pinned)
        code, out, messages = workshop.run("fetch", "toy.lib")
        assert code == 0, messages
        assert contents(Path(out.strip())) == {**TREE, ".melt-upstream-commit": "c0ffee\n"}
        assert (workshop.root / "ran").exists()

    @pytest.mark.parametrize("name", LEADING_OUT)
    @pytest.mark.parametrize("kind", ["sdist", "wheel"])
    def test_one_with_a_path_that_leaves_the_folder_is_refused(self, workshop: Workshop, kind: str, name: str) -> None:
        inside = INSIDE if kind == "sdist" else "vendor/toy/"
        workshop.archive(kind, {name.format_map({"in": inside, "root": workshop.root}): "evil"})
        code, out, messages = workshop.run("fetch", "toy.lib")
        assert (code, out, "third_party: error: " in messages) == (1, "", True)
        assert workshop.cached == []
        assert [path for path in workshop.root.rglob("*") if path.name == "evil"] == []

    def test_one_with_a_link_that_leaves_it_is_refused(self, workshop: Workshop) -> None:
        workshop.archive(more={INSIDE + "link": workshop.root, INSIDE + "link/evil": "evil"})
        code, out, messages = workshop.run("fetch", "toy.lib")
        assert (code, out, "third_party: error: " in messages) == (1, "", True)
        assert workshop.cached == []
        assert not (workshop.root / "evil").exists()

    def test_what_pip_lets_through_is_not_made_either(
        self, workshop: Workshop, tmp_path: Path, tools: Callable[[str], Any]
    ) -> None:
        third_party = tools("third_party")
        pin = third_party.Pin("toy.lib", "", "", "", "sdist", "", "", "", "", tree="vendor/toy")
        archive = workshop.archive(more={INSIDE + "link": tmp_path, INSIDE + "link/evil": "in the folder"})
        third_party.unpack(archive, pin, tmp_path / "unpacked")
        assert contents(tmp_path / "unpacked") == {**TREE, "link/evil": "in the folder"}
        assert not (tmp_path / "evil").exists()
        for name in LEADING_OUT:
            archive = workshop.archive(more={name.format_map({"in": INSIDE, "root": tmp_path}): "evil"})
            with pytest.raises(third_party.ThirdPartyError, match="outside its own tree"):
                third_party.unpack(archive, pin, tmp_path / "refused")


class TestProcesses:
    def test_two_at_once_wait_for_one_another(self, workshop: Workshop) -> None:
        # GIVEN one process that is about to fetch, and another that waits for it
        workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(2)))
        hold = workshop.put("hold", "")
        command = ("prepare", "toy.lib", "--out", workshop.mirror)
        first = workshop.start(*command)
        wait_for((workshop.root / "ran").exists)
        second = workshop.start(*command)
        wait_for(lambda: any(file.path.endswith(".lock") for file in psutil.Process(second.pid).open_files()))
        # WHEN the first goes on
        hold.unlink()
        done = [child.communicate(timeout=TIMEOUT_S)[1] for child in (first, second)]
        # THEN it was fetched once, and both have made the one mirror
        assert (first.returncode, second.returncode) == (0, 0), done
        assert (workshop.root / "ran").read_text() == "ran "
        assert len(workshop.cached) == 1
        assert contents(workshop.mirror) == {**READ, "src/a.c": edited(2)}
        assert looks_whole(workshop.mirror)

    @pytest.mark.parametrize("when", ["pip runs", "unpacking"])
    def test_one_killed_while_fetching_leaves_no_tree(self, workshop: Workshop, when: str) -> None:
        if when == "pip runs":
            hold = workshop.put("hold", "")
            child = workshop.start("fetch", "toy.lib")
            wait_for((workshop.root / "ran").exists)
            os.killpg(child.pid, signal.SIGKILL)  # pip too: its process group is the child's own
            child.communicate(timeout=TIMEOUT_S)
            hold.unlink()
        else:
            assert workshop.run("fetch", "toy.lib", killed_at=3)[0] == -signal.SIGKILL
        # THEN there is nothing that counts, and the next one puts all in order
        base = workshop.root / "cache/third_party"
        assert workshop.cached == []
        assert [path for path in base.iterdir() if path.is_dir()], "the test is to leave something"
        code, out, messages = workshop.run("fetch", "toy.lib")
        assert code == 0, messages
        assert contents(Path(out.strip())).keys() == {*TREE, ".melt-upstream-commit"}
        assert [path.name for path in base.iterdir() if path.is_dir()] == workshop.cached

    @pytest.mark.parametrize("fresh", [True, False])
    def test_one_killed_at_any_write_leaves_no_mirror_that_looks_whole(self, workshop: Workshop, fresh: bool) -> None:
        tree, mirror = workshop.own_tree(), workshop.mirror
        for killed_at in range(1, 10):
            # GIVEN no mirror, or that of an earlier patch
            if fresh:
                shutil.rmtree(mirror, ignore_errors=True)
            else:
                workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(2)))
                assert workshop.prepare("--from", tree)[0] == 0
            both = diff("src/b.c", TREE["src/b.c"], "int c;\n")
            workshop.patch("0001-a.patch", diff("src/a.c", TREE["src/a.c"], edited(3)), both)
            # WHEN one is killed at a write of its own
            code, _, _ = workshop.prepare("--from", tree, killed_at=killed_at)
            if code == 0:
                break
            # THEN the mirror does not look whole, and the next one makes it so
            assert code == -signal.SIGKILL
            assert not looks_whole(mirror)
            assert workshop.prepare("--from", tree)[0] == 0
            assert looks_whole(mirror)
            assert contents(mirror) == {**READ, "src/a.c": edited(3), "src/b.c": "int c;\n"}
        assert killed_at == (1 + len(READ) if fresh else 3) + 1
