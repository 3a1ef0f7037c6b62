"""The devices that the tests of transports run against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from melt_core.transports import LocalTransport, Transport


@pytest.fixture(params=["local"])
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    """Each kind of transport in turn, with an empty work directory."""
    with LocalTransport(tmp_path_factory.mktemp("device")) as made:
        yield made
