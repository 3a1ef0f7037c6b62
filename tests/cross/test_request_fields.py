"""The agent knows every field of a profile request, with the same defaults: neither side may gain one alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import melt_core as melt
from melt_core.profiling import ProfileRequest

from .conftest import Connection

REQUEST = ProfileRequest(
    model="layers=2,op_ns=20000", output="elsewhere.melt", runtime="synthetic", prompt="Hi", n_threads=1, max_tokens=4
)


def test_every_field_is_taken_and_defaults_are_the_same(host_agent: Path, tmp_path: Path) -> None:
    everything = asdict(REQUEST)
    fewest = {name: everything[name] for name in ("model", "runtime", "prompt", "n_threads", "max_tokens")}
    with Connection([str(host_agent)], tmp_path) as device:
        for run, request in (("everything", everything), ("fewest", fewest)):
            device.ask("start", run=run, request=request)
            assert device.wait(run)["state"] == "done"
        refused = device.raw(b'{"id": 1, "op": "start", "run": "x", "request": {"model": "m", "modle": 1}}')
    assert "modle" in refused["error"]["message"]
    traces = [melt.Trace.open(tmp_path / f"runs/{run}/trace.melt") for run in ("everything", "fewest")]
    for part in ("request", "config"):
        assert traces[0].metadata[part] == traces[1].metadata[part]
    assert traces[0].metadata["agent"]["run"] == "everything"
