"""Compiles models with TVM; runs in a process of its own (``python -m``), which needs the extra `mlc`."""
