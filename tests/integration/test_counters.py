"""Counting for real: on a small model, on a processor that has to be shared, and where perf events are forbidden."""

from __future__ import annotations

import json
import platform
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import melt_core as melt
from fakes.needs import lacking
from melt_core.runtime.machine import counter_info

from .conftest import TIMEOUT_S, Outcome

SOFTWARE = {"minor_faults", "major_faults", "context_switches", "migrations"}
HARDWARE = {"cycles", "instructions", "llc_misses", "branch_misses"}
INFO = counter_info()

#: Profiles argv[1] into argv[2], with argv[3] threads at levels argv[4], on one processor only if argv[5] is "shared".
PROFILE = """
import os, sys
import melt_core as melt
model, output, n_threads, levels, place = sys.argv[1:]
if place == "shared":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with melt.load(model, n_ctx=128, n_threads=int(n_threads)) as llm:
    with melt.profile(llm, levels=levels.split(","), output=output) as prof:
        prof.run(list(range(1, 33)), max_tokens=8, ignore_eos=True, repeats=1, overhead_budget_s=0)
"""

#: The kernel answers perf_event_open with argv[-1] from here on: a filter as containers have it.
FORBID = """
import ctypes, platform, struct, sys
number = {"x86_64": 298, "aarch64": 241}[platform.machine()]
error = int(sys.argv.pop())
load, equal, answer = (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error)
rules = struct.pack("=" + "HBBI" * 4, *load, *equal, *answer, 0x06, 0, 0, 0x7FFF0000)
rules = ctypes.create_string_buffer(rules, len(rules))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(rules)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0, ctypes.get_errno()
"""


@pytest.fixture
def profiled(
    start_python: Callable[..., subprocess.Popen[str]], tiny_llama: Path, tmp_path: Path
) -> Callable[..., melt.Trace]:
    """Profiles the small model in a process of its own."""

    def run(levels: str, *arguments: str, n_threads: int = 1, before: str = "", place: str = "free") -> melt.Trace:
        path = tmp_path / "t.melt"
        child = start_python(before + PROFILE, tiny_llama, path, n_threads, levels, place, *arguments)
        _, errors = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode == 0, errors
        return melt.Trace.open(path)

    return run


@pytest.mark.alone
def test_each_counter_is_in_the_table_or_absent_with_the_reason(profiled: Callable[..., melt.Trace]) -> None:
    trace = profiled("counters", n_threads=2)
    assert trace.damage == []
    assert trace.metadata["config"]["levels"] == ["ops", "counters"]
    expected = {row["name"]: row["source"] for row in INFO["counters"] if row["source"]}
    assert {row.name: row.source for row in trace.counters} == expected
    assert set(expected) >= SOFTWARE
    missing = trace.metadata["counters"]["missing"]
    assert set(missing) == (HARDWARE | SOFTWARE) - set(expected)
    assert all("perf_event_open: " in reason and "perf_event_paranoid is " in reason for reason in missing.values())
    in_graphs = trace.ops["op_type"] != "SAMPLE"
    for name in expected:
        values = trace.ops[name]
        assert np.isnan(values[~in_graphs]).all()  # outside a graph nothing is read
        assert (values[in_graphs] >= 0).all()
    for name in set(expected) & {"cycles", "instructions"}:
        assert trace.ops[name][in_graphs].sum() > 0


def test_the_first_evaluation_faults_in_what_later_ones_find(profiled: Callable[..., melt.Trace]) -> None:
    trace = profiled("tokens,counters")
    first, last = (trace.ops[trace.ops["run"] == run]["minor_faults"] for run in (0, len(trace.runs) - 1))
    assert np.nansum(first) > 10
    assert np.nansum(last) < np.nansum(first) / 2


@pytest.mark.alone
def test_times_still_add_up(profiled: Callable[..., melt.Trace]) -> None:
    kept = profiled("counters", n_threads=2).summary().conservation
    assert kept.median is not None
    assert 0.9 < kept.median <= 1.001  # small graphs: a reading at their beginning is in no op


@pytest.mark.alone
@pytest.mark.parametrize("levels", ["ops", "counters"])
def test_a_shared_processor_disturbs_the_ops_in_which_it_was_lost(
    profiled: Callable[..., melt.Trace], levels: str
) -> None:
    if INFO["switches_reason"]:
        lacking(INFO["switches_reason"])
    # WHEN two threads that spin have one processor
    trace = profiled(levels, n_threads=2, place="shared")
    assert trace.metadata["disturbed"]["source"] == "PERF_RECORD_SWITCH"
    assert trace.metadata["disturbed"]["n_lost"] == 0
    switches, ops = trace.switches, trace.ops
    assert switches["preempted"].any()
    assert (switches["cpu_before"] == switches["cpu_after"]).all()  # there is no other one
    # THEN the marked records are those that the switches overlap
    start_ns = ops["start_ns"]
    end_ns = start_ns + ops["compute_ns"] + ops["wait_ns"]
    longest_ns = np.zeros(len(ops))
    for off in switches:
        overlap = np.minimum(end_ns, off.start_ns + off.duration_ns) - np.maximum(start_ns, off.start_ns)
        longest_ns = np.where(ops["thread"] == off.thread, np.maximum(longest_ns, overlap), longest_ns)
    flags = np.concatenate([block["flags"] for block in trace.op_blocks()])
    own = (flags & 1) != 0
    assert own.any()
    assert (longest_ns[own] > 150).all()
    assert own[longest_ns > 250].all()
    # AND without them the ops take as long as they do alone
    whole, kept = (trace.key_averages("phase", phase="decode", exclude_disturbed=flag)[0] for flag in (False, True))
    assert whole.disturbed == kept.disturbed > 0
    assert kept.count == whole.count - whole.disturbed
    assert kept.wall_ns / kept.count < whole.wall_ns / whole.count


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter needs the call's number")
@pytest.mark.parametrize(("error", "word"), [(1, "EPERM"), (13, "EACCES"), (38, "ENOSYS")])
def test_where_perf_events_are_forbidden_that_is_said(
    profiled: Callable[..., melt.Trace], error: int, word: str
) -> None:
    trace = profiled("tokens,counters", str(error), before=FORBID)
    summary = trace.summary()
    assert summary.counters is not None
    assert set(summary.counters.missing) == HARDWARE
    assert all(f"({word})" in reason for reason in summary.counters.missing.values())
    assert {row.source for row in trace.counters} == {"getrusage", "sched_getcpu before and after"}
    assert np.nansum(trace.ops["minor_faults"]) > 10
    assert trace.metadata["disturbed"] == {"source": "getrusage"}
    assert not len(trace.switches)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter needs the call's number")
def test_level_ops_alone_says_that_it_does_not_know(profiled: Callable[..., melt.Trace]) -> None:
    trace = profiled("ops", "1", before=FORBID)
    assert "EPERM" in trace.metadata["disturbed"]["reason"]
    assert "disturbed" not in trace.ops.columns
    disturbed = trace.summary().disturbed
    assert disturbed is not None
    assert disturbed.groups is None
    with pytest.raises(melt.TraceError, match="seccomp"):
        trace.key_averages(exclude_disturbed=True)


def test_switches_can_be_left_alone(tiny_llama: Path) -> None:
    with melt.load(tiny_llama, n_ctx=64, n_threads=1) as llm, melt.profile(llm, watch_switches=False) as prof:
        prof.run([1, 2, 3], max_tokens=2, warmup=0, overhead_budget_s=0)
    assert prof.trace.metadata["disturbed"] == {"reason": "not asked for"}


def test_a_simulated_clock_knows_no_switches() -> None:
    with melt.load("layers=2", runtime="synthetic") as llm, melt.profile(llm, levels=("counters",)) as prof:
        prof.run("Hi", max_tokens=2, warmup=0, overhead_budget_s=0)
    trace = prof.trace
    assert "simulated" in trace.metadata["disturbed"]["reason"]
    assert set(trace.metadata["counters"]["missing"]) == HARDWARE | SOFTWARE
    assert not len(trace.counters)
    assert "not counted" in str(trace.summary())


@pytest.mark.alone
def test_models_run_from_several_threads(tiny_llama: Path) -> None:
    # WHEN another thread than before evaluates, it is that one which is counted
    with melt.load(tiny_llama, n_ctx=64, n_threads=2) as llm, melt.profile(llm, levels=("counters",)) as prof:
        for _ in range(2):
            worker = threading.Thread(
                target=prof.run, args=([1, 2, 3],), kwargs={"max_tokens": 2, "warmup": 0, "overhead_budget_s": 0}
            )
            worker.start()
            worker.join()
    ops = prof.trace.ops
    in_graphs = ops[ops["op_type"] != "SAMPLE"]
    assert set(in_graphs["run"].tolist()) == {0, 1}
    assert np.isfinite(in_graphs["minor_faults"]).all()


@pytest.mark.alone
def test_files_are_closed_again(tiny_llama: Path) -> None:
    def n_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with melt.load(tiny_llama, n_ctx=64, n_threads=2) as llm:
        before = n_files()
        for _ in range(3):
            with melt.profile(llm, levels=("counters",)) as prof:
                prof.run([1, 2, 3], max_tokens=2, warmup=0, overhead_budget_s=0)
        del prof
        assert n_files() <= before + 1  # the trace's own


def test_the_command(cli: Callable[..., Outcome], tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.melt"
    done = cli(
        "profile", tiny_llama, "--prompt-tokens", 8, "--max-tokens", 4, "--ctx", 64, "--threads", 1, "--repeats", 2,
        "--levels", "tokens,counters", "-o", path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "counters, decode" in done.out
    rows = json.loads(cli("ops", path, "--counters", "--json").out)
    assert all(set(row) >= SOFTWARE for row in rows)
    assert "disturbed: " in cli("ops", path).out
    subjects = {row["subject"]: row for row in json.loads(cli("doctor", "--json").out)}
    assert subjects["software events"]["state"] == "ok"
    assert subjects["hardware counters"]["state"] in ("ok", "limited", "absent")
    assert subjects["disturbed ops"]["detail"]
