"""Traces: the ``.melt`` file and the tables in it. Everything that ran, wherever it ran, ends up here."""

from __future__ import annotations

from melt_core.trace.table import Table
from melt_core.trace.trace import Trace

__all__ = ["Table", "Trace"]
