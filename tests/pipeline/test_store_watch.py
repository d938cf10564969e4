"""The embedded server is started again, also when it is killed while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pipeline.embedded import EmbeddedStore
from pipeline.errors import StoreBusy, StoreLost, StoreRefused
from pipeline.store_watch import STARTS, StoreWatch


class DiesAtFirst(EmbeddedStore):
    """The next `deaths` processes are killed before they read their configuration."""

    deaths = 0

    def launch(self) -> None:
        super().launch()
        if self.deaths:
            self.deaths -= 1
            assert self.process is not None
            os.kill(self.process.pid, signal.SIGKILL)


def killed(folder: Path, deaths: int) -> None:
    """Kill a server whose next ones die as well, until one lives or the watch gives up."""
    store = DiesAtFirst(folder, "everysec")
    store.start()
    assert store.process is not None
    first = store.process.pid

    async def kept() -> None:
        keeping = asyncio.create_task(StoreWatch(store, 60.0).keep())
        await asyncio.sleep(0)
        store.deaths = deaths
        os.kill(first, signal.SIGKILL)
        while not keeping.done() and not _answers(store, first):
            await asyncio.sleep(0.005)
        if keeping.done():
            await keeping
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    try:
        asyncio.run(kept())
    finally:
        store.stop()


def _answers(store: EmbeddedStore, before: int) -> bool:
    assert store.process is not None
    if store.process.pid == before:
        return False
    try:
        store.ping(1.0)
    except (StoreLost, StoreBusy):
        return False
    return True


def test_a_store_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    killed(tmp_path, STARTS - 1)


def test_a_store_that_never_lives_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="ended with code -9"):
        killed(tmp_path, STARTS)
