"""A Valkey of the test's own, on a unix socket in the test's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framegate.pipeline.store.embedded import EmbeddedStore


@contextmanager
def server(folder: Path) -> Iterator[EmbeddedStore]:
    """A running server; it ends with the block, whoever killed it in between."""
    store = EmbeddedStore(folder, "everysec")
    store.start()
    try:
        yield store
    finally:
        store.stop()
