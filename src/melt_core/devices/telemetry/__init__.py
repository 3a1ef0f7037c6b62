"""Parsers of what devices say about themselves, one file per source; formats and units are in each file's head."""

from __future__ import annotations

from melt_core.devices.telemetry.base import Absent, Channel, Reading, Readout, merged
from melt_core.devices.telemetry.tree import FileTree, LocalTree, SnapshotTree, snapshot_of

__all__ = [
    "Absent",
    "Channel",
    "FileTree",
    "LocalTree",
    "Reading",
    "Readout",
    "SnapshotTree",
    "merged",
    "snapshot_of",
]
