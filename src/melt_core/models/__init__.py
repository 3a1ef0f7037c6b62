"""Model files: a small catalogue of models that can be fetched by name."""

from __future__ import annotations

from melt_core.models.catalog import CATALOG, CatalogModel, cached_path, model_path, resolve

__all__ = ["CATALOG", "CatalogModel", "cached_path", "model_path", "resolve"]
