"""The ``melt`` command. Each sub-command is a module with ``add_parser``; what it runs returns an exit code."""

from __future__ import annotations

from melt_core.cli.main import main

__all__ = ["main"]
