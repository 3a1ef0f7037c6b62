"""The error tree: kinds as in the C++ core, exit codes, and messages of one line."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from melt_core import errors
from melt_core.errors import ERROR_BY_KIND, InvalidArgumentError, MeltError, MissingExtraError, StorageError


def test_kinds_are_those_of_the_core() -> None:
    header = Path(__file__).parents[2] / "cpp/include/melt/error.h"
    kinds = {int(number) for number in re.findall(r"k[A-Z]\w+ = (\d+),", header.read_text())}
    assert set(ERROR_BY_KIND) == kinds


@pytest.mark.parametrize("kind", ERROR_BY_KIND.values())
def test_each_is_a_melt_error_with_an_exit_code(kind: type[MeltError]) -> None:
    error = kind("what failed, and what to try")
    assert str(error) == "what failed, and what to try"
    assert error.exit_code == (2 if kind is InvalidArgumentError else 1)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_storage_error_keeps_the_number() -> None:
    error = StorageError.from_os_error("write", "x", OSError(28, "No space left on device"))
    assert (str(error), error.errno, error.filename) == ("cannot write x: No space left on device", 28, "x")


def test_missing_extra_names_the_extra() -> None:
    error = MissingExtraError("pyarrow", extra="store")
    assert "pip install 'melt_core[store]'" in str(error)
    assert isinstance(error, ImportError)
    assert errors.MeltError in type(error).__mro__
