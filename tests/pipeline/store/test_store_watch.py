"""The embedded server is started again, also when it is killed while it starts; it is killed for
its own silence only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import OutOfMeans, StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.store import embedded
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import STARTS, EmbeddedStore, StoreWatch
from framegate.pipeline.store.listen import Listener
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.store.worker_connections import Link
from framegate.pipeline.system.process import die_with_parent, in_thread
from tests.support.own_servers import free_port
from tests.support.runs import stop_process


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


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of a server that is started may get larger than 64 KiB."""

    def limited() -> None:
        die_with_parent()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    monkeypatch.setattr(embedded, "die_with_parent", limited)


def fill(store: EmbeddedStore) -> None:
    with store_errors(store.url), closing(connect(store.url)) as client:
        client.set("large", bytes(1 << 17))


@pytest.mark.usefixtures("full_disk")
def test_a_start_on_a_full_disk_is_refused_with_its_reason(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, "everysec")
    store.start()
    try:
        with pytest.raises(StoreRefused, match=r"ended with code 1 .*AOF write error"):
            store.while_it_lives(lambda: fill(store))
    finally:
        store.stop()


@pytest.mark.usefixtures("full_disk")
def test_the_log_has_why_a_store_ended_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = EmbeddedStore(tmp_path, "always")
    store.start()
    assert store.process is not None
    first = store.process.pid

    async def kept() -> None:
        keeping = asyncio.create_task(StoreWatch(store, 60.0).keep())
        await asyncio.sleep(0)
        with pytest.raises(StoreLost):
            fill(store)
        while not keeping.done() and not _answers(store, first):
            await asyncio.sleep(0.005)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    try:
        asyncio.run(kept())
    finally:
        store.stop()
    assert "AOF write error" in caplog.text


@pytest.mark.parametrize("listens", [False, True])
def test_a_store_ends_by_command_as_it_looks_for_signals_once_a_second_only(
    tmp_path: Path, listens: bool
) -> None:
    listener = None
    if listens:
        listener = Listener("127.0.0.1", free_port(), sha256(b"a password").hexdigest())
    store = EmbeddedStore(tmp_path, "everysec", listener)
    store.start()
    store.stop()
    assert store.process is not None
    assert store.process.returncode == 0
    assert "User requested shutdown" in (tmp_path / "valkey.log").read_text(encoding="utf-8")


def test_a_store_with_a_long_path_starts_again_after_a_stop(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / ("x" * 120), "everysec")
    assert len(os.fsencode(store.socket)) < 108
    for _ in range(2):
        store.start()
        store.stop()
        assert not store.socket.parent.exists()


def test_a_store_that_hangs_is_killed_at_its_end(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, "everysec")
    store.start()
    assert store.process is not None
    stop_process(store.process.pid)
    store.stop(patience_s=0.1)
    assert store.was_killed


class Pinged(EmbeddedStore):
    """Counts how often it was asked."""

    pings = 0

    def ping(self, answer_s: float) -> None:
        try:
            super().ping(answer_s)
        finally:
            self.pings += 1


def watched(folder: Path, disturb: Callable[[Pinged], AbstractContextManager[None]]) -> bool:
    """Whether the server outlives many questions while it is disturbed."""
    store = Pinged(folder, "everysec")
    store.start()
    assert store.process is not None
    first = store.process.pid

    async def asked() -> bool:
        keeping = asyncio.create_task(StoreWatch(store, 0.4).keep())
        with disturb(store):
            before = store.pings
            while store.pings < before + 12 and store.process.pid == first:  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        return store.process is not None and store.process.pid == first

    try:
        return asyncio.run(asked()) and store.process.poll() is None
    finally:
        store.stop()


@contextmanager
def no_descriptors(_: Pinged) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_connection_left(store: Pinged) -> Iterator[None]:
    with closing(connect(store.url)) as client:
        client.config_set("maxclients", 2)
        strangers = []
        for _ in range(3):
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(str(store.socket))
            strangers.append(stranger)
        try:
            with pytest.raises((StoreBusy, StoreLost), match=r"no more connections|Broken pipe"):
                Link(store.url)
            yield
        finally:
            for stranger in strangers:
                stranger.close()


@contextmanager
def stopped(store: Pinged) -> Iterator[None]:
    assert store.process is not None
    os.kill(store.process.pid, signal.SIGSTOP)
    yield


def test_a_store_that_we_have_no_descriptor_to_ask_with_is_not_killed(tmp_path: Path) -> None:
    assert watched(tmp_path, no_descriptors)


def test_a_store_that_takes_no_more_connections_is_not_killed(tmp_path: Path) -> None:
    assert watched(tmp_path, no_connection_left)


def test_a_store_that_says_nothing_is_killed_and_started_again(tmp_path: Path) -> None:
    assert not watched(tmp_path, stopped)


def test_a_store_that_cannot_be_forked_now_is_started_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(tmp_path, "everysec")
    store.start()
    assert store.process is not None
    first = store.process.pid
    real, failures = subprocess.Popen, [errno.EAGAIN, errno.ENOMEM, errno.EMFILE]

    def fork(*words: Any, **more: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "injected")
        return real(*words, **more)

    monkeypatch.setattr(subprocess, "Popen", fork)

    async def kept() -> None:
        keeping = asyncio.create_task(StoreWatch(store, 60.0).keep())
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        while not keeping.done() and not _answers(store, first):
            await asyncio.sleep(0.01)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    try:
        asyncio.run(kept())
    finally:
        store.stop()
    assert failures == []


def test_a_link_that_there_is_no_descriptor_for_is_a_lost_store_not_an_unexpected_error(
    tmp_path: Path,
) -> None:
    store = Pinged(tmp_path, "everysec")
    store.start()
    try:
        with no_descriptors(store), pytest.raises(OutOfMeans):
            Link(store.url)
        with no_descriptors(store), pytest.raises(OutOfMeans):
            StoreAdmin(store.url).sources()
    finally:
        store.stop()


def test_what_needs_a_thread_that_there_is_none_for_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = threading.Thread.start, [1, 1, 1]

    def start(thread: threading.Thread) -> None:
        if failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert asyncio.run(in_thread(lambda: 7)) == 7
    assert failures == []
