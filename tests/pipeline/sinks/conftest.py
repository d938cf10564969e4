"""A store of the test's own, and who writes episodes there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.servers import server
from tests.support.told_episodes import Teller


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with server(tmp_path / "store") as made:
        yield made


@pytest.fixture
def teller(store: EmbeddedStore) -> Iterator[Teller]:
    made = Teller(store.url)
    yield made
    made.close()
