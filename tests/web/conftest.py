"""A source made by hand, what reads it, and a server that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.pictures.frames import LastFrames
from framegate.stages.draw.pictures import Pictures
from tests.support.servers import server
from tests.support.studio import KNOWN, Studio
from tests.support.web_server import serving


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def studio(store: EmbeddedStore) -> Iterator[Studio]:
    made = Studio(store)
    yield made
    made.close()


@pytest.fixture
def frames(studio: Studio) -> Iterator[LastFrames]:
    looking = LastFrames(studio.url, studio.frame_store)
    yield looking
    looking.close()


@pytest.fixture
def port(studio: Studio) -> Iterator[int]:
    """What a run's HTTP process serves."""
    with serving(Pictures(studio.frame_store, studio.url, lambda: KNOWN).routes()) as number:
        yield number
