"""speedscope's JSON, for https://www.speedscope.app or its offline bundle: one profile per thread.

Profiles are of the sampled kind: each op is one sample whose weight is its time, under its run, phase and layer; a wait
and the time between ops are samples of their own, so that the time axis is the thread's own. An op ends at the latest
where the next one begins, as in chrome.py: else each nanosecond of overlap would move all that follows.
Schema: https://www.speedscope.app/file-format-schema.json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

from melt_core.report._rows import op_tables
from melt_core.trace.metadata import text

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


class _Frames:
    """Names, numbered in order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


class _Profile:
    """Ops of one thread, and the samples made of them in order of time."""

    def __init__(self) -> None:
        self.ops: list[tuple[int, list[int], int, int]] = []
        self.samples: list[list[int]] = []
        self.weights: list[int] = []

    def build(self, between: list[int], wait: int) -> None:
        """Makes the samples; records need not come in order of time."""
        self.ops.sort(key=lambda op: (op[0], op[2] + op[3]))
        now_ns = self.ops[0][0] if self.ops else 0
        limits_ns = [op[0] for op in self.ops[1:]]
        for (start_ns, stack, compute_ns, wait_ns), limit_ns in zip(self.ops, [*limits_ns, None], strict=True):
            computed_ns = start_ns + max(compute_ns, 0)
            end_ns = computed_ns + max(wait_ns, 0)
            if limit_ns is not None:
                computed_ns, end_ns = min(computed_ns, limit_ns), min(end_ns, limit_ns)
            self._add(between, start_ns - now_ns)
            self._add(stack, computed_ns - start_ns)
            self._add([*stack, wait], end_ns - computed_ns)
            now_ns = end_ns

    def _add(self, stack: list[int], duration_ns: int) -> None:
        if duration_ns > 0:
            self.samples.append(stack)
            self.weights.append(duration_ns)


def write(trace: Trace, file: BinaryIO, *, run: int | None = None) -> None:
    """Writes `trace`, or one run of it, to `file`. Holds all samples in memory: choose one run of a large trace."""
    frames = _Frames()
    profiles = _profiles(trace, frames, run)
    name = text(trace.metadata, "model", "name") or "trace"
    head = {
        "$schema": SCHEMA,
        "name": name,
        "exporter": "melt_core",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in frames.numbers]},
    }
    file.write(json.dumps(head)[:-1].encode() + b', "profiles": [')
    for number, (thread, profile) in enumerate(sorted(profiles.items())):
        body = {
            "type": "sampled",
            "name": f"thread {thread}",
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": sum(profile.weights),
            "samples": profile.samples,
            "weights": profile.weights,
        }
        file.write((b",\n" if number else b"\n") + json.dumps(body).encode())
    file.write(b"\n]}\n")


def _profiles(trace: Trace, frames: _Frames, run: int | None) -> dict[int, _Profile]:
    profiles: dict[int, _Profile] = {}
    stacks: dict[Any, list[int]] = {}
    for table in op_tables(trace, run=run):
        for row in table:
            key = (row.run, row.phase, row.layer, row.op, row.op_type)
            if key not in stacks:
                stacks[key] = _stack(row, frames)
            profile = profiles.setdefault(row.thread, _Profile())
            profile.ops.append((row.start_ns, stacks[key], row.compute_ns, row.wait_ns))
    for profile in profiles.values():
        profile.build([frames["(outside ops)"]], frames["wait"])
    return profiles


def _stack(row: Any, frames: _Frames) -> list[int]:
    layer = "outside the layers" if row.layer is None else f"layer {row.layer}"
    names = [f"run {'?' if row.run is None else row.run}", row.phase or "no phase", layer, f"{row.op} ({row.op_type})"]
    return [frames[name] for name in names]
