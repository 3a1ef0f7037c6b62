"""What devices say about themselves: the files under tests/data/devices, as texts and as trees."""

from __future__ import annotations

from pathlib import Path

from melt_core.devices.telemetry import SnapshotTree, snapshot_of

FOLDER = Path(__file__).parents[1] / "data/devices"


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def tree_of(name: str) -> SnapshotTree:
    """Returns a ``.tree`` file as the snapshot of a device."""
    listing = text_of(name)
    paths = [path for line in listing.splitlines() for path in [_path_of(line)]]
    return snapshot_of(listing, list(dict.fromkeys(paths)))


def write_tree(name: str, root: Path) -> None:
    """Writes a ``.tree`` file as real files below `root`."""
    for line in text_of(name).splitlines():
        path = _path_of(line)
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            file.write(line[len(path) + 1 :] + "\n")


def _path_of(line: str) -> str:
    """Returns the path before a line's text: "iio:device0" is the only folder of ours with a colon in it."""
    head = line.replace("iio:device", "iio\0device").partition(":")[0]
    return head.replace("\0", ":")
