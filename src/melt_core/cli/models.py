"""``melt models``: the models that can be fetched by name, conversions, and what a model file contains."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from melt_core.cli._convert import add_convert_parser
from melt_core.cli._fit import add_fit_arguments, asks_for_fit, fit_of, print_fit
from melt_core.cli._output import print_json


def add_parser(subparsers: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = subparsers.add_parser("models", help="list, fetch, convert and inspect model files")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="the models that can be fetched by name")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_list)

    path = actions.add_parser("path", help="print a model's path, fetching it if need be")
    path.add_argument("name", metavar="NAME", help="a name from `melt models list`, such as demo")
    path.set_defaults(run=run_path)

    add_convert_parser(actions)

    inspect = actions.add_parser("inspect", help="what a GGUF file or an MLC directory says of itself")
    inspect.add_argument(
        "model", metavar="MODEL", help="a GGUF file, an MLC directory, or a name from `melt models list`"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON, with every tensor and key")
    add_fit_arguments(inspect)
    inspect.set_defaults(run=run_inspect)


def run_list(args: argparse.Namespace) -> int:
    """Prints the catalogue."""
    from melt_core.models import CATALOG, cached_path

    fetched = {model.name: cached_path(model).exists() for model in CATALOG}
    if args.json:
        names = ("name", "alias", "quantization", "size_bytes", "licence")
        print_json([{n: getattr(model, n) for n in names} | {"fetched": fetched[model.name]} for model in CATALOG])
        return 0
    for model in CATALOG:
        state = "fetched" if fetched[model.name] else "not fetched"
        size = f"{model.size_bytes / 1e6:.0f} MB"
        print(f"{model.alias:<8} {model.name:<30} {size:>7}  {model.licence}, {state}")
    return 0


def run_path(args: argparse.Namespace) -> int:
    """Prints where a model lies."""
    from melt_core.models import model_path

    print(model_path(args.name))
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Prints the header of a model file."""
    from melt_core.models import resolve
    from melt_core.runtime.gguf import read_gguf

    path = resolve(args.model)
    if path.is_dir():
        return _inspect_directory(path, args)
    file = read_gguf(path)
    prediction = fit_of(file.path, args) if asks_for_fit(args) else None
    if args.json:
        print_json(
            {
                **({} if prediction is None else {"memory": prediction.to_json()}),
                "path": file.path,
                "version": file.version,
                "file_bytes": file.file_bytes,
                "n_params": file.n_params,
                "weights_bytes": file.weights_bytes,
                "metadata": file.metadata,
                "tensors": [vars(tensor) | {"shape": list(tensor.shape)} for tensor in file.tensors],
            }
        )
        return 0
    architecture = file.metadata.get("general.architecture", "unknown")
    print(f"{file.path}")
    print(f"  {file.metadata.get('general.name', 'unnamed')}: {architecture}, GGUF version {file.version}")
    print(f"  {file.n_params / 1e6:.1f} M parameters in {len(file.tensors)} tensors, {file.weights_bytes / 1e6:.1f} MB")
    if file.n_params:
        print(f"  {file.weights_bytes * 8 / file.n_params:.2f} bits per weight")
    for kind, count in Counter(tensor.type for tensor in file.tensors).most_common():
        size = sum(tensor.size_bytes for tensor in file.tensors if tensor.type == kind)
        print(f"    {kind:<8} {count:>4} tensors {size / 1e6:>9.1f} MB")
    for key in ("context_length", "embedding_length", "block_count", "attention.head_count", "attention.head_count_kv"):
        value = file.metadata.get(f"{architecture}.{key}")
        if value is not None:
            print(f"  {key}: {value}")
    if prediction is not None:
        print_fit(prediction)
    return 0


def _inspect_directory(path: Path, args: argparse.Namespace) -> int:
    """Prints what an MLC model directory says of itself."""
    from melt_core.models.mlc.directory import describe
    from melt_core.report import human

    found = describe(path)
    prediction = fit_of(str(path), args) if asks_for_fit(args) else None
    if args.json:
        print_json(({} if prediction is None else {"memory": prediction.to_json()}) | asdict(found))
        return 0
    print(f"{path}")
    print(f"  {found.model_type}, {found.quantization}, for the MLC runtime")
    print(f"  {found.n_tensors} tensors, {human.size_bytes(found.weights_bytes)}")
    for library in found.libraries:
        print(f"  library: {library}")
    print(f"  context_window_size: {found.context_window_size}")
    if prediction is not None:
        print_fit(prediction)
    return 0
