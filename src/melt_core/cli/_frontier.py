"""``melt memory --frontier``: the largest context and batch that really run under a memory limit."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import print_json
from melt_core.cli._progress import Progress
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.profiling.frontier import Frontier

METHOD = "RLIMIT_DATA in a child process (private memory reserved), lowered by the mapped part of the model file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``--frontier`` takes."""
    group = parser.add_argument_group("frontier", "the largest context that runs, tried in child processes")
    group.add_argument("--frontier", metavar="MODEL", help="a GGUF file, or a name such as demo")
    group.add_argument("--batch", action="store_true", help="then also the largest batch in one graph, at --ctx")
    group.add_argument("--ctx", type=int, default=2048, metavar="N", help="context for --batch (default: 2048)")
    group.add_argument("--max-ctx", type=int, metavar="N", help="largest context to try (default: the model's own)")
    group.add_argument("--limit-bytes", type=int, metavar="N", help="memory limit (default: 80 %% of the available)")
    group.add_argument("--kv-type", default="f16", metavar="T", help="type of the KV cache: f16 (default), q8_0, ...")
    group.add_argument(
        "--max-seconds", type=float, default=300.0, metavar="S", help="bound of each search (default: 300)"
    )


def check_sizes(args: argparse.Namespace) -> None:
    """Raises InvalidArgumentError for a size that cannot be, whether it is needed or not."""
    for name in ("ctx", "max_ctx", "limit_bytes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InvalidArgumentError(f"--{name.replace('_', '-')} {value}: give at least 1")


def run_frontier(args: argparse.Namespace) -> int:
    """Searches and prints. Returns 0 if something runs, 1 if nothing fits."""
    from melt_core.models import resolve
    from melt_core.profiling.fit import MemoryOptions
    from melt_core.profiling.frontier import default_limit, find_batch, find_context
    from melt_core.runtime.checks import checked_number

    for name in ("ctx", "max_ctx"):
        if getattr(args, name) is not None:
            checked_number(name, getattr(args, name), low=1)
    model = resolve(args.frontier)
    limit = default_limit() if args.limit_bytes is None else args.limit_bytes
    options = MemoryOptions(kv_type=args.kv_type)
    start = time.monotonic()
    with Progress(sys.stderr) as progress:
        bounds: Any = {"limit_bytes": limit, "max_seconds": args.max_seconds, "on_step": progress.update}
        found = [find_context(model, options, most=args.max_ctx, **bounds)]
        if args.batch and found[0].found:
            at = min(args.ctx, found[0].found)
            found.append(find_batch(model, replace(options, n_ctx=at), **bounds))
    seconds = time.monotonic() - start
    if args.json:
        print_json(_as_json(str(model), limit, seconds, found))
    else:
        _print(str(model), limit, seconds, found)
    return 0 if found[0].found else 1


def _as_json(model: str, limit: int, seconds: float, found: list[Frontier]) -> dict[str, Any]:
    rows = []
    for frontier in found:
        names = ("quantity", "predicted", "found", "failed", "most", "stopped", "agreement_ratio")
        row: dict[str, Any] = {name: getattr(frontier, name) for name in names}
        row["attempts"] = [asdict(attempt) for attempt in frontier.attempts]
        rows.append(row | {"prediction": frontier.prediction.to_json()})
    return {"model": model, "limit_bytes": limit, "method": METHOD, "seconds": seconds, "frontiers": rows}


def _print(model: str, limit: int, seconds: float, found: list[Frontier]) -> None:
    from melt_core.report import human

    print(model)
    print(f"limit {human.size_bytes(limit)} of memory reserved, mapped weights included; {seconds:.0f} s")
    print(f"{'':<10}{'predicted':>10}{'found':>10}{'pred/found':>11}{'fails at':>10}{'allowed':>10}{'attempts':>9}")
    for frontier in found:
        ratio = "-" if frontier.agreement_ratio is None else f"{frontier.agreement_ratio:.3f}"
        failed = "-" if frontier.failed is None else str(frontier.failed)
        print(
            f"{frontier.quantity:<10}{frontier.predicted:>10}{frontier.found:>10}{ratio:>11}{failed:>10}"
            f"{frontier.most:>10}{len(frontier.attempts):>9}"
        )
    for frontier in found:
        reserved = human.size_bytes(frontier.prediction.reserved_bytes)
        if frontier.found:
            print(f"{frontier.quantity} {frontier.found} reserves {reserved} by prediction")
        else:
            print(f"no {frontier.quantity} runs: the smallest reserves {reserved} by prediction")
        if frontier.found == frontier.most:
            print(f"{frontier.quantity} {frontier.found} is the largest allowed: memory is not what limits it")
        if frontier.stopped:
            print(f"{frontier.quantity}: {frontier.stopped}; the edge lies from {frontier.found} on")
