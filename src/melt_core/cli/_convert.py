"""``melt models convert``: makes a model directory for another runtime."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melt_core.cli._output import print_json
from melt_core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from melt_core.models.mlc.convert import Conversion


def add_convert_parser(actions: Any) -> None:
    """Adds the sub-command."""
    from melt_core.models.mlc.quantization import QUANTIZATIONS
    from melt_core.models.mlc.targets import TARGETS

    parser = actions.add_parser("convert", help="compile a model for the MLC runtime")
    parser.add_argument("model", metavar="SRC", help="a GGUF file, a directory with safetensors, or a catalogue name")
    parser.add_argument("--runtime", choices=("mlc",), required=True, help="the runtime to convert for")
    parser.add_argument("--quant", choices=QUANTIZATIONS, required=True, help="how weights are stored")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="host",
        metavar="TARGET",
        help=f"the machine it is for: {', '.join(TARGETS)} (default: host, this one)",
    )
    parser.add_argument("--linker", metavar="PROGRAM", default="", help="a compiler that links for the target")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the directory to make")
    parser.add_argument(
        "--chunk", type=int, metavar="N", default=2048, help="most tokens of one evaluation (default: 2048)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> int:
    """Converts, and prints what was made."""
    from melt_core.cli._progress import Progress
    from melt_core.models import resolve
    from melt_core.models.mlc.convert import convert

    if not args.output:
        raise InvalidArgumentError("the output's name is empty: name the directory to make")
    with Progress(sys.stderr) as progress:
        done = convert(
            resolve(args.model),
            Path(args.output),
            quantization=args.quant,
            target=args.target,
            linker=args.linker,
            prefill_chunk_size=args.chunk,
            report=progress.update,
        )
    if args.json:
        print_json(asdict(done) | {"bits_per_weight": done.bits_per_weight})
        return 0
    print_conversion(done)
    return 0


def print_conversion(done: Conversion) -> None:
    """Prints what was made and what its checks found."""
    from melt_core.report import human

    print(f"{done.folder}")
    print(f"  {done.model_type}, {done.quantization}, compiled for {done.target} in {done.duration_s:.0f} s")
    weights, library = human.size_bytes(done.weights_bytes), human.size_bytes(done.library_bytes)
    print(f"  {done.n_params / 1e6:.1f} M parameters in {weights}, {done.bits_per_weight:.2f} bits per weight")
    print(f"  {done.library}: {library}; tokenizer: {'written' if done.has_tokenizer else 'the source has none'}")
    check = done.verification
    print("  checksums verified; weights off by at most, in half steps of their format:")
    print(f"    {_against(check.weights_error, check.bounds.weights)}")
    if check.kernels_error is None or check.logits_error is None:
        print(f"  logits not compared: {check.reason}")
        return
    print("  logits off by, relative to NumPy in float32:")
    print(f"    with these weights {_against(check.kernels_error, check.bounds.kernels)}")
    print(f"    with the source's weights {_against(check.logits_error, check.bounds.logits)}")


def _against(error: float, bound: float) -> str:
    return f"{error:.2g} (allowed {bound:g})"
