"""The command line's contract: options, output as JSON, exit codes."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt
from fakes.needs import lacking
from melt_core.cli.main import COMMANDS

from .conftest import SHORT, TIMEOUT_S, Outcome

Cli = Callable[..., Outcome]
N_PROMPT, N_OUTPUT, N_REPEATS, N_WARMUP = 16, 5, 3, 1
GROUPINGS = ("op_type", "layer", "module", "phase", "name", "thread", "dtype", "weight", "backend")


@pytest.fixture(scope="module")
def profiled(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What `melt profile ... --json` printed, and the trace that it kept."""
    path = tmp_path_factory.mktemp("cli") / "t.melt"
    arguments = (
        "profile", tiny_llama, "--prompt-tokens", N_PROMPT, "--max-tokens", N_OUTPUT, "--threads", 1, "--ctx", 128,
        "--repeats", N_REPEATS, "--warmup", N_WARMUP, "--levels", "tokens,ops", "--overhead-seconds", 0.2,
        "-o", path, "--json",
    )  # fmt: skip
    script = "import sys; from melt_core.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout), path


@pytest.fixture(scope="module")
def trace_path(profiled: tuple[dict[str, Any], Path]) -> str:
    return str(profiled[1])


def test_profile_prints_the_figures_as_pure_json(profiled: tuple[dict[str, Any], Path]) -> None:
    figures, _ = profiled
    assert figures["model"]
    assert figures["runtime"] == "llama.cpp"
    for name in ("load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s"):
        assert math.isfinite(figures[name]), name
        assert figures[name] > 0, name
    assert len(figures["output_token_ids"]) == N_OUTPUT
    assert len(figures["prompt_token_ids"]) == N_PROMPT
    assert isinstance(figures["output_text"], str)
    assert figures["peak_rss_bytes"] > 1 << 20
    assert (figures["n_runs"], figures["n_warmup"], figures["n_threads"]) == (N_REPEATS, N_WARMUP, 1)
    assert (figures["n_prompt"], figures["n_output"]) == (N_PROMPT, N_OUTPUT)


def test_profile_counts_ops_and_checks_them(profiled: tuple[dict[str, Any], Path]) -> None:
    figures, _ = profiled
    ops = figures["ops"]
    assert ops["graphs"] == N_REPEATS * N_OUTPUT
    assert ops["groups"] == ops["records"] > ops["graphs"]
    assert ops["dropped"] == 0
    assert 0.5 < figures["conservation"]["min"] <= figures["conservation"]["median"] < 1.001
    overhead = figures["overhead"]
    assert overhead["prefill_ratio"] is not None
    assert overhead["decode_ratio"] is not None
    low, high = overhead["decode_ci95"]
    assert low <= overhead["decode_ratio"] <= high


def test_profile_without_ops_says_what_is_missing(tiny_llama: Path, cli: Cli) -> None:
    outcome = cli(
        "profile", tiny_llama, "--prompt", "Hello", "--max-tokens", 2, "--repeats", 1, "--warmup", 0, "--threads", 1,
        "--levels", "tokens", "--json",
    )  # fmt: skip
    assert outcome.code == 0
    figures = json.loads(outcome.out)
    assert figures["decode_tok_s"] > 0
    assert figures["ops"]["records"] == 0
    assert figures["conservation"]["median"] is None
    assert figures["missing"]["conservation"]
    assert figures["overhead"]["decode_ratio"] is None


def test_profile_as_text_names_the_next_step(tiny_llama: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "t.melt"
    outcome = cli(
        "profile", tiny_llama, "--prompt-tokens", 4, "--max-tokens", 2, "--repeats", 1, "--warmup", 0, "--threads", 1,
        "--overhead-seconds", 0, "-o", path,
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert "tok/s" in outcome.out
    assert f"melt ops {path}" in outcome.out
    assert path.exists()


def test_the_same_seed_gives_the_same_run(tiny_llama: Path, cli: Cli) -> None:
    def run(seed: int) -> Any:
        outcome = cli(
            "profile", tiny_llama, "--prompt-tokens", 8, "--max-tokens", 8, "--repeats", 1, "--warmup", 0,
            "--threads", 1, "--levels", "tokens", "--temperature", 2, "--seed", seed, "--json",
        )  # fmt: skip
        figures = json.loads(outcome.out)
        return figures["prompt_token_ids"], figures["output_token_ids"]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_demo_model_runs_by_its_name(demo: Path, cli: Cli) -> None:
    outcome = cli(
        "profile", "demo", "--chat", "--prompt", "Say hi.", "--max-tokens", 2, "--repeats", 1, "--warmup", 0,
        "--threads", 1, "--overhead-seconds", 0, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert "smollm2" in figures["model"].lower()
    assert figures["quantization"].upper() == "Q4_1"
    assert figures["n_prompt"] > 10  # the chat format is around it
    assert figures["ops"]["graphs"] == 2


@pytest.mark.parametrize("by", GROUPINGS)
def test_ops_groups_by_each_key(by: str, trace_path: str, cli: Cli) -> None:
    outcome = cli("ops", trace_path, "--by", by, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(outcome.out)
    assert rows
    columns = ["key", "count", "wall_ns", "share", "compute_ns", "wait_ns", "bytes", "flops", "live_bytes"]
    assert all(list(row)[: len(columns)] == columns for row in rows)
    times = [row["wall_ns"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    keys = [row["key"] for row in rows]
    assert len(keys) == len(set(keys))
    text = cli("ops", trace_path, "--by", by)
    assert text.code == 0
    assert max(map(len, text.out.splitlines())) <= 80


def test_ops_of_a_phase_and_the_longest_only(trace_path: str, cli: Cli) -> None:
    phases = {
        phase: json.loads(cli("ops", trace_path, "--phase", phase, "--json").out) for phase in ("prefill", "decode")
    }
    counts = {phase: {row["key"]: row["count"] for row in rows}["MUL_MAT"] for phase, rows in phases.items()}
    assert counts["decode"] == (N_OUTPUT - 1) * counts["prefill"]
    warm = {row["key"]: row["count"] for row in json.loads(cli("ops", trace_path, "--warmup", "--json").out)}
    assert warm["MUL_MAT"] == (counts["prefill"] + counts["decode"]) * (N_REPEATS + N_WARMUP) // N_REPEATS
    assert len(json.loads(cli("ops", trace_path, "--top", 2, "--json").out)) == 2


def test_summary_says_what_profile_said(profiled: tuple[dict[str, Any], Path], cli: Cli) -> None:
    figures, path = profiled
    summary = json.loads(cli("summary", path, "--json").out)
    assert summary == {name: value for name, value in figures.items() if name in summary}
    text = cli("summary", path)
    assert text.code == 0
    assert "tok/s" in text.out


@pytest.mark.parametrize("name", ["chrome", "speedscope", "csv", "parquet"])
def test_export_writes_each_format(name: str, trace_path: str, tmp_path: Path, cli: Cli) -> None:
    if name == "parquet" and find_spec("pyarrow") is None:
        lacking("pyarrow is not installed: pip install 'melt_core[store]'")
    path = tmp_path / "exported"
    outcome = cli("export", trace_path, "--format", name, "-o", path)
    assert (outcome.code, outcome.err) == (0, "")
    n_ops = len(melt.Trace.open(trace_path).ops)
    if name == "csv":
        with path.open(newline="") as file:
            assert sum(1 for _ in csv.DictReader(file)) == n_ops
    elif name == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.read_metadata(path).num_rows == n_ops
    else:
        assert json.loads(path.read_text())


def test_report_is_one_file(trace_path: str, tmp_path: Path, cli: Cli) -> None:
    outcome = cli("report", trace_path, "-o", tmp_path / "report.html")
    assert outcome.code == 0, outcome.err
    html = (tmp_path / "report.html").read_text()
    assert 'src="http' not in html
    assert "</html>" in html


def test_models_lists_finds_and_inspects(demo: Path, tiny_llama: Path, cli: Cli) -> None:
    (listed,) = [row for row in json.loads(cli("models", "list", "--json").out) if row["alias"] == "demo"]
    assert listed["fetched"] is True
    assert "demo" in cli("models", "list").out
    assert cli("models", "path", "demo").out == f"{demo}\n"
    inspected = json.loads(cli("models", "inspect", "demo", "--json").out)
    assert inspected["n_params"] == 134_515_008
    assert inspected["metadata"]["general.architecture"] == "llama"
    up = next(tensor for tensor in inspected["tensors"] if tensor["name"] == "blk.0.ffn_up.weight")
    assert (up["shape"], up["type"], up["size_bytes"]) == ([1536, 576], "q4_1", 1536 * 576 * 20 // 32)
    assert "bits per weight" in cli("models", "inspect", tiny_llama).out


@pytest.mark.parametrize(
    ("levels", "command"), [("tokens", "summary"), ("tokens,memory", "memory"), ("memory,counters", "ops")]
)
def test_the_command_that_is_named_next_works(levels: str, command: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "t.melt"
    model = ("layers=1,op_ns=10", "--runtime", "synthetic")
    printed = cli("profile", *model, *SHORT, "--levels", levels, "-o", path).out.splitlines()[-1]
    assert printed == f"trace: {path}   next: melt {command} {path}"
    assert cli(command, path).code == 0
    if command != "ops":
        assert "holds no ops: record it with `melt profile --levels tokens,ops`" in cli("ops", path).complaint


def test_doctor_says_what_can_be_measured(cli: Cli) -> None:
    findings = json.loads(cli("doctor", "--json").out)
    assert {finding["state"] for finding in findings} <= {"ok", "limited", "absent"}
    subjects = {finding["subject"]: finding for finding in findings}
    assert subjects["runtime llama.cpp"]["state"] == "ok"
    assert all(finding["detail"] for finding in findings)
    lines = cli("doctor").out.splitlines()
    flat = " ".join(" ".join(lines).split())
    folded = [each for each in findings if each["subject"].startswith("sensor ") and each["state"] == "absent"]
    # one entry per finding, those sensors that are absent together in one
    assert sum(not line.startswith(" ") for line in lines) == len(findings) - len(folded) + bool(folded)
    for each in findings:
        name = each["subject"].removeprefix("sensor ") if each in folded else f"{each['state']} {each['subject']}:"
        assert name in re.sub(" +", " ", flat)
    assert all(len(line) <= 80 for line in lines if "/" not in line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str, cli: Cli) -> None:
    outcome = cli("completion", shell)
    assert outcome.code == 0
    for command in COMMANDS:
        assert command in outcome.out


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("models", "inspect")])
def test_each_command_has_help(command: tuple[str, ...], cli: Cli) -> None:
    outcome = cli(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: melt")


def test_the_installed_command_is_there(cli_process: Cli) -> None:
    outcome = cli_process("--version")
    assert (outcome.code, outcome.out) == (0, f"melt {melt.__version__}\n")
    broken = cli_process("profile", "--threads", "many", "x")
    assert broken.code == 2
    assert "--threads" in broken.complaint


IMPORT = """
import sys, warnings, logging, threading, os, signal
before = (list(warnings.filters), list(logging.root.handlers), threading.active_count(), dict(os.environ), os.getcwd(),
          signal.getsignal(signal.SIGINT))
import melt_core
after = (list(warnings.filters), list(logging.root.handlers), threading.active_count(), dict(os.environ), os.getcwd(),
         signal.getsignal(signal.SIGINT))
assert before == after, "importing melt_core changed the process"
print(" ".join(sorted(name for name in sys.modules if "." not in name)))
"""


def test_importing_is_light_and_changes_nothing(start_python: Any) -> None:
    out, err = start_python(IMPORT).communicate(timeout=TIMEOUT_S)
    assert err == ""
    heavy = {"pyarrow", "pandas", "jinja2", "matplotlib", "torch", "gguf", "requests", "asyncio", "http", "urllib3"}
    assert not heavy & set(out.split())


def test_a_local_profile_needs_nothing_of_devices(start_python: Any) -> None:
    # Their import takes as long as all else of the child process.
    script = (
        "import sys, melt_core as melt, melt_core.profiling.worker\n"
        "with melt.load('layers=1', runtime='synthetic') as llm, melt.profile(llm) as prof:\n"
        "    prof.run([1], max_tokens=1)\n"
        "print([name for name in sys.modules if name.startswith(('melt_core.devices', 'melt_core.transports'))])"
    )
    assert start_python(script).communicate(timeout=TIMEOUT_S) == ("[]\n", "")


def test_help_needs_no_numpy(start_python: Any) -> None:
    script = "import sys; from melt_core.cli.main import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    child = start_python(script)
    child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0
