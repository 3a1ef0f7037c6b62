"""Tests against real runtimes, files and processes. A package, so that its modules may be named as the unit tests'."""
