"""From figures to what people and other tools read. Formatting for people lives here and nowhere before."""

from __future__ import annotations

from melt_core.report.html import report

__all__ = ["report"]
