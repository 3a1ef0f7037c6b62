"""Every script in examples/ runs, and so does every block of the documents that is marked ``python runnable``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_LINES = 40

#: What each example prints, as a pattern; an example without an entry fails.
PRINTS = {
    "compare_threads.py": r"2 threads / 1 thread, pair by pair: \d+\.\d+, \d+\.\d+, \d+\.\d+",
    "per_layer.py": r"(?m)^ +29( +\d+\.\d){3}$",
    "profile_demo.py": r"(?s)TTFT .*conservation .*overhead, decode .*MUL_MAT",
    "replay_token_ids.py": r"phases of the replayed run: prefill, decode",
    "slowest_ops.py": r"(?m)^result_output +MUL_MAT +\d",
    "synthetic_truth.py": r"thread 1: computes \{60000\} ns and waits \{20000\} ns\nconservation: 100\.00%",
}


def _blocks() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python runnable\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{document.name}:{line}", match.group(1)))
    return found


BLOCKS = _blocks()


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Runs Python code in an empty folder; returns what it prints."""

    def in_process(code: str, *arguments: str) -> str:
        if "model_path(" in code:
            request.getfixturevalue("demo")
        command = [sys.executable, "-W", "error", "-", *arguments]
        done = subprocess.run(
            command, input=code, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return in_process


@pytest.mark.alone
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_prints_what_it_promises(example: Path, run: Callable[..., str], tmp_path: Path) -> None:
    output = run(example.read_text(encoding="utf-8"))
    assert re.search(PRINTS[example.name], output), output
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind unless it is told to"


@pytest.mark.alone
def test_an_example_keeps_its_trace_where_it_is_told(run: Callable[..., str], tmp_path: Path) -> None:
    code = (ROOT / "examples" / "profile_demo.py").read_text(encoding="utf-8")
    run(code, "kept.melt")
    trace = melt.Trace.open(tmp_path / "kept.melt")
    assert trace.complete
    assert len(trace.ops) > 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_shows(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) <= MAX_LINES


def test_documents_have_runnable_blocks() -> None:
    names = {name.partition(":")[0] for name, _ in BLOCKS}
    assert {"README.md", "trace_format.md"} <= names


@pytest.mark.parametrize(("where", "code"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_a_runnable_block_runs(where: str, code: str, run: Callable[..., str]) -> None:
    del where
    run(code)


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []
