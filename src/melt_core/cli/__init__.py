"""The ``melt`` command. Each sub-command is a module with ``add_parser``; what it runs returns an exit code."""

from __future__ import annotations

import sys

try:
    from melt_core.cli.main import main
except KeyboardInterrupt:  # while it was imported: `main` itself words this once it runs
    sys.stderr.write("melt: error: interrupted\n")
    sys.exit(130)

__all__ = ["main"]
