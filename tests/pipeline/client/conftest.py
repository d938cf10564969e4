"""A store, and results in it that are published by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.published import Publisher


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    server = EmbeddedStore(tmp_path / "store", "everysec")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def publisher(store: EmbeddedStore) -> Iterator[Publisher]:
    made = Publisher(store)
    yield made
    made.client.close()
