"""Imports point one way (docs: architecture, section 3): so a trace opens where there is no runtime and no extra."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/melt_core"

#: Runs in a process of its own, which needs the extra `mlc`; nothing else imports it.
COMPILER = PACKAGE / "models/mlc/compiler"

#: A module may import from a lower rank, or from its own folder.
RANK = {
    "cache": 0,
    "errors": 0,
    "units": 0,
    "trace": 1,
    "analysis": 2,
    "report": 3,
    "models": 4,
    "transports": 4,
    "meters": 4,
    "devices": 5,
    "runtime": 5,
    "profiling": 6,
    "study": 7,
    "evaluation": 7,
    "cli": 8,
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def top_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields statements that run on import: not those in functions, nor those for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, field, None)
            if inner and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from module_level(inner)


def imported(tree: ast.Module) -> Iterator[str]:
    for node in module_level(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            assert all(alias.name != "*" for alias in node.names), "no wildcard imports"
            if node.module == "melt_core":
                yield from (f"melt_core.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = top_of(path)
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "melt_core" or len(parts) < 2:
            continue
        if parts[1] == "_core":
            assert own == "runtime", f"{path.name} imports _core"
        elif parts[1] != own and not parts[1].startswith("__"):
            assert RANK[parts[1]] < RANK[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_numpy_and_psutil_are_needed(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "melt_core", "numpy", "psutil"}
    if COMPILER in path.parents:
        allowed.add("tvm")
    for name in imported(ast.parse(path.read_text())):
        assert name.split(".")[0] in allowed, f"{name} belongs into the function that needs it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_the_compiler(path: Path) -> None:
    if COMPILER not in path.parents:
        assert "import melt_core.models.mlc.compiler" not in path.read_text()
        assert "from melt_core.models.mlc.compiler" not in path.read_text()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    if top_of(path) == "cli" or path == PACKAGE / "report/text.py":
        return
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not [call.lineno for call in prints if all(keyword.arg != "file" for keyword in call.keywords)]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            has_docstring = ast.get_docstring(node) is not None and len(node.body) > 1
            first = node.body[1 if has_docstring else 0].lineno
            assert (node.end_lineno or 0) - first < 60, f"{node.name} is long"


def test_importing_traces_changes_nothing() -> None:
    # WHEN the trace package is imported with warnings as errors
    code = (
        "import sys, types, logging, warnings, numpy; filters = list(warnings.filters)\n"
        f"package = types.ModuleType('melt_core'); package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['melt_core'] = package\n"
        "import melt_core.trace, melt_core.analysis.summary, melt_core.report.html\n"
        "assert warnings.filters == filters and not logging.root.handlers\n"
        "assert not {'pandas', 'pyarrow', 'melt_core._core'} & set(sys.modules)\n"
    )
    # THEN it needs no compiled core and leaves the process as it was
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
