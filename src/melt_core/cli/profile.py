"""``melt profile``: load a model, run it, record where the time went."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from melt_core.cli._output import print_json
from melt_core.cli._progress import Progress
from melt_core.errors import InvalidArgumentError

DEFAULT_PROMPT_TOKENS = 128
MAX_GATE_WAIT_S = 86400


def add_parser(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "profile",
        usage="%(prog)s [-h] [PROMPT] [OPTION ...] MODEL",  # argparse cannot break the line within a choice of one
        help="run a model and record where the time went",
        description="Loads a model file in a child process, runs warm-up and repetitions, and prints the summary. "
        f"Without a prompt it evaluates {DEFAULT_PROMPT_TOKENS} random tokens.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a GGUF file, a name from `melt models list`, such as demo, or an MLC model directory",
    )
    prompts = parser.add_argument_group("PROMPT", "what is evaluated: one of these")
    prompt = prompts.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="evaluate this text")
    prompt.add_argument("--prompt-tokens", type=int, metavar="N", help="evaluate N random tokens, ignore end-of-text")
    prompt.add_argument("--prompt-from", metavar="T.melt", help="replay the prompt's token ids from a trace")
    prompt.add_argument("--replay", metavar="T.melt", help="evaluate prompt and output of a trace, for `melt compare`")
    parser.add_argument("--logits", action="store_true", help="keep what `melt compare` needs to compare logits")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat format")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="output tokens (default: 128)")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after the end-of-text token")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="for drawing tokens (default: 0)")
    _add_model_options(parser)
    _add_measuring_options(parser)
    parser.add_argument(
        "--device", default="local", metavar="URI", help="run there: adb:SERIAL, ssh:[user@]HOST[:PORT], ios:UDID"
    )
    parser.add_argument(
        "--gate-wait",
        type=float,
        default=60.0,
        metavar="S",
        help="with --device: how long to wait until it has cooled (default: 60)",
    )
    parser.add_argument("-o", "--output", metavar="T.melt", help="keep the trace in this file")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """How the model is loaded."""
    parser.add_argument("--threads", type=int, metavar="N", help="computing threads (default: one per usable CPU)")
    parser.add_argument("--ctx", type=int, default=2048, metavar="N", help="context length in tokens (default: 2048)")
    parser.add_argument(
        "--batch", type=int, default=2048, metavar="N", help="most tokens in one evaluation (default: 2048)"
    )
    parser.add_argument("--ubatch", type=int, default=512, metavar="N", help="most tokens in one graph (default: 512)")
    parser.add_argument("--runtime", default="llama.cpp", help="llama.cpp (default), mlc or synthetic")
    parser.add_argument(
        "--model-lib", metavar="LIB", help="MLC: the compiled model (default: the one in the directory)"
    )
    parser.add_argument(
        "--runtime-path",
        metavar="DIR",
        help="MLC: the folder of TVM's libraries; with --device those for it, or device:PATH of what is there",
    )
    parser.add_argument("--no-mmap", action="store_true", help="read the model file instead of mapping it")
    parser.add_argument("--no-repack", action="store_true", help="keep the weights in the layout of the file")
    parser.add_argument("--kv-type", default="f16", metavar="T", help="type of the KV cache: f16 (default), q8_0, ...")
    parser.add_argument("--check-tensors", action="store_true", help="refuse NaN and infinite weights")


def _add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """What is repeated and recorded."""
    parser.add_argument("--repeats", type=int, default=3, metavar="R", help="repetitions that count (default: 3)")
    parser.add_argument("--warmup", type=int, default=1, metavar="W", help="repetitions before those (default: 1)")
    parser.add_argument(
        "--levels",
        default="tokens,ops",
        metavar="L",
        help="of tokens,ops,memory,counters (default: tokens,ops)",
    )
    parser.add_argument(
        "--sensors",
        default="auto",
        metavar="auto|none|LIST",
        help="power, heat and clocks to read meanwhile: all there are (default), none, or some by name (`melt doctor`)",
    )
    parser.add_argument(
        "--sensor-hz", type=float, default=100.0, metavar="N", help="readings per second (default: 100)"
    )
    parser.add_argument(
        "--idle-s",
        type=float,
        default=0.0,
        metavar="S",
        help="read the sensors so long before the runs and after them, for what the device draws at idle (default: 0)",
    )
    parser.add_argument(
        "--marker",
        action="store_true",
        help="make pulses of load before and after all that, by which `melt meter join` aligns a meter's recording",
    )
    parser.add_argument(
        "--overhead-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="time for measuring the recording's own cost, for prefill and decode each; 0: do not (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Profiles and prints the summary. Returns the exit code."""
    from melt_core.report import text

    with tempfile.TemporaryDirectory(prefix="melt-") as folder:
        output = Path(folder, "trace.melt") if args.output is None else args.output
        result = _profile(args, output)
        summary = result.trace.summary()
        if args.json:
            extra = {"prompt_token_ids": list(result.prompt_token_ids), "output_text": result.output_text}
            print_json({**summary.to_json(), **extra})
        else:
            print(text.format_summary(summary))
            if args.output is not None:
                print(f"trace: {output}   next: melt {_next_command(args.levels)} {output}")
    return 0


def _next_command(levels: str) -> str:
    """Returns the command that shows what a trace of these levels has most of."""
    if "ops" in levels or "counters" in levels:  # counters are read at ops
        return "ops"
    return "memory" if "memory" in levels else "summary"


def _profile(args: argparse.Namespace, output: str | Path) -> Any:
    from melt_core.models import resolve
    from melt_core.profiling import ProfileRequest, profile_in_child
    from melt_core.trace.storage import check_trace_output

    if not 0 <= args.gate_wait <= MAX_GATE_WAIT_S:  # NaN is not either
        raise InvalidArgumentError(f"--gate-wait {args.gate_wait}: give 0 to {MAX_GATE_WAIT_S} seconds")
    model = args.model if args.runtime == "synthetic" else str(resolve(args.model))
    check_trace_output(output, inputs=(model, args.prompt_from, args.replay))
    if args.chat and args.prompt is None:
        raise InvalidArgumentError("--chat needs --prompt TEXT")
    prompt_tokens = args.prompt_tokens
    prompt_ids, forced_ids = _replayed(args)
    if args.prompt is None and prompt_ids is None and prompt_tokens is None:
        prompt_tokens = DEFAULT_PROMPT_TOKENS
    request = ProfileRequest(
        model=model,
        output=str(output),
        runtime=args.runtime,
        prompt=args.prompt,
        chat=args.chat,
        prompt_ids=prompt_ids,
        forced_ids=forced_ids,
        keep_logits=args.logits,
        prompt_tokens=prompt_tokens,
        max_tokens=len(forced_ids) or args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        ignore_eos=args.ignore_eos,
        repeats=args.repeats,
        warmup=args.warmup,
        levels=tuple(level.strip() for level in args.levels.split(",") if level.strip()),
        n_ctx=args.ctx,
        n_batch=args.batch,
        n_ubatch=args.ubatch,
        n_threads=args.threads,
        use_mmap=not args.no_mmap,
        check_tensors=args.check_tensors,
        repack=not args.no_repack,
        kv_type=args.kv_type,
        model_lib=args.model_lib,
        runtime_path=args.runtime_path,
        overhead_budget_s=args.overhead_seconds,
        sensors=tuple(name.strip() for name in args.sensors.split(",") if name.strip()),
        sensor_hz=args.sensor_hz,
        idle_s=args.idle_s,
        marker=args.marker,
    )
    if args.device != "local":
        return _profile_on_device(request, args)
    with Progress(sys.stderr) as progress:

        def show(event: dict[str, Any]) -> None:
            _show(progress, event)
            if event["event"] == "repetition" and event["done"] == 0:  # loaded: the runtime takes so many threads
                progress.wipe()
                _warn_of_threads(args.threads)

        return profile_in_child(request, on_event=show, is_kept=args.output is not None)


def _warn_of_threads(n_threads: int | None) -> None:
    from melt_core.runtime.session import usable_cpus

    usable = usable_cpus()
    if n_threads is not None and n_threads > usable:
        print(
            f"melt: warning: {n_threads} threads on the {usable} CPUs that this process may use: they will wait for "
            f"each other; take --threads {usable} or fewer",
            file=sys.stderr,
        )


def _profile_on_device(request: Any, args: argparse.Namespace) -> Any:
    from melt_core.cli.devices import show_event
    from melt_core.devices import GateLimits
    from melt_core.devices.discovery import remember
    from melt_core.profiling.remote import profile_on_device

    limits = GateLimits(wait_s=args.gate_wait)
    remember(args.device)
    with Progress(sys.stderr) as progress:
        return profile_on_device(
            request, args.device, limits=limits, on_event=lambda event: show_event(progress, event)
        )


def _replayed(args: argparse.Namespace) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Returns the token ids of the prompt and of the output that are to be replayed."""
    if args.replay is not None:
        return _prompt_of(args.replay), _output_of(args.replay)
    return (None if args.prompt_from is None else _prompt_of(args.prompt_from)), ()


def _output_of(path: str) -> tuple[int, ...]:
    """Returns the output of a trace's first measured run."""
    from melt_core.trace import Trace

    output = Trace.open(path).summary().output_token_ids
    if not output:
        raise InvalidArgumentError(f"{path} has no output to replay")
    return output


def _prompt_of(path: str) -> tuple[int, ...]:
    """Returns the prompt of a trace's first run."""
    from melt_core.trace import Trace

    prompts = Trace.open(path).prompts
    if not len(prompts):
        raise InvalidArgumentError(f"{path} has no prompt to replay")
    first = prompts["run"] == prompts["run"][0]
    return tuple(int(token) for token in prompts["token_id"][first])


def _show(progress: Progress, event: dict[str, Any]) -> None:
    if event["event"] == "load":
        progress.update("loading the model", event["done"])
    elif event["event"] == "repetition":
        progress.update(
            f"repetition {min(event['done'] + 1, event['total'])}/{event['total']}", event["done"] / event["total"]
        )
