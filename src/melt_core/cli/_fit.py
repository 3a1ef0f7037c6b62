"""``melt models inspect --ctx``: what a model would hold in memory, and whether this device has it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melt_core.profiling.fit import MemoryPrediction


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a prediction takes."""
    group = parser.add_argument_group("memory", "predicts what loading would hold; reads no weights")
    group.add_argument("--ctx", type=int, metavar="N", help="context in tokens; 0: the model's own (default: 2048)")
    group.add_argument("--batch", type=int, metavar="N", help="most tokens in one evaluation (default: 2048)")
    group.add_argument("--ubatch", type=int, metavar="N", help="most tokens in one graph (default: 512)")
    group.add_argument("--kv-type", metavar="T", help="type of the KV cache: f16 (default), q8_0, q4_0, ...")
    group.add_argument("--no-mmap", action="store_true", help="as if the file were read instead of mapped")
    group.add_argument("--no-repack", action="store_true", help="as if the weights kept the layout of the file")


def asks_for_fit(args: argparse.Namespace) -> bool:
    """Tells whether any of the options was given."""
    given = any(getattr(args, name) is not None for name in ("ctx", "batch", "ubatch", "kv_type"))
    return given or args.no_mmap or args.no_repack


def fit_of(model: str, args: argparse.Namespace) -> MemoryPrediction:
    """Returns the prediction that the options ask for."""
    from melt_core.profiling.fit import MemoryOptions, predict_memory

    runtime = "mlc" if Path(model).is_dir() else "llama.cpp"
    named = {"n_ctx": args.ctx, "n_batch": args.batch, "n_ubatch": args.ubatch, "kv_type": args.kv_type}
    given = {name: value for name, value in named.items() if value is not None}
    return predict_memory(
        model, MemoryOptions(runtime=runtime, **given, use_mmap=not args.no_mmap, repack=not args.no_repack)
    )


def print_fit(prediction: MemoryPrediction) -> None:
    """Prints a row for each category and the verdict."""
    from melt_core.report import human

    options, device = prediction.options, prediction.device
    ubatch = min(options.n_batch, options.n_ubatch)
    how = f", {ubatch} a graph, KV in {options.kv_type}" if options.runtime == "llama.cpp" else ""
    print(f"  memory at {prediction.forecast.n_ctx} tokens of context{how}:")
    for category, size in prediction.bytes_by_category.items():
        if size != 0:
            buffers = sorted({part.buffer for part in prediction.forecast.parts if part.category == category})
            print(f"    {category:<8} {human.size_bytes(size):>10}  {', '.join(buffers)}".rstrip())
    print(f"    {'total':<8} {human.size_bytes(prediction.total_bytes):>10}")
    if prediction.fits is None:
        print(f"  whether it fits is unknown: {device.source}")
        return
    verdict = "fits" if prediction.fits else "DOES NOT FIT"
    available, total = human.size_bytes(device.available_bytes), human.size_bytes(device.total_bytes)
    print(f"  {verdict}: {available} available of {total} ({device.source})")
