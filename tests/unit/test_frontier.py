"""The search for the largest size that holds, apart from any model."""

from __future__ import annotations

import pytest

from melt_core.profiling.frontier import MAX_ATTEMPTS, RESOLUTION, Search

STEP = 256


def search_edge(edge: int, most: int, guess: int | None, *, exact: bool = False) -> tuple[Search, int]:
    search = Search(STEP, most, exact=exact)
    while (size := search.next_size(guess)) is not None:
        assert size % STEP == 0
        assert STEP <= size <= most
        assert size not in search.tried
        search.note(size, size <= edge)
        assert len(search.tried) <= 40
    return search, len(search.tried)


@pytest.mark.parametrize("edge", [0, 255, 256, 511, 512, 4_999, 65_535, 65_536, 1_000_000])
def test_the_exact_search_finds_the_last_step(edge: int) -> None:
    # WHEN nothing is known before
    search, _ = search_edge(edge, 65_536, None, exact=True)
    # THEN the largest multiple below the edge is found
    assert search.found == min(edge // STEP * STEP, 65_536)


@pytest.mark.parametrize("edge", [0, 300, 5_000, 30_000, 65_000, 10**9])
@pytest.mark.parametrize("error", [0.5, 0.9, 0.97, 1.0, 1.03, 1.1, 2.0])
def test_a_guess_saves_attempts_and_never_misleads(edge: int, error: float) -> None:
    most = 65_536
    guess = max(int(min(edge, most) * error) // STEP * STEP, STEP)
    # WHEN the search starts from a prediction that is off
    search, attempts = search_edge(edge, most, min(guess, most))
    # THEN the edge lies within the resolution above what was found
    assert search.found <= edge
    if search.failed is not None:
        assert search.failed - search.found <= max(STEP, search.found * RESOLUTION)
    assert attempts <= MAX_ATTEMPTS
    assert abs(error - 1) > 0.04 or attempts <= 6
