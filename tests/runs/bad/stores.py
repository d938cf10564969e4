"""Stores that are not there, go away, are full, forget, or are emptied."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import redis

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.listen import Listener
from tests.runs.bad.case import DONE, GOOD_FRAMES, STOPPED_TWICE, STORE, USAGE, Case, Play
from tests.runs.bad.folders import held_up, open_gate
from tests.support.commands import Command, Ended, Reader, framegate, user_folder
from tests.support.own_servers import free_port
from tests.support.runs import wait_until
from tests.support.servers import server

WORDY = """
[stages.wordy]
use = "user_stages:Wordy"
nbytes = 100000
input = "cache"
on_lag = "wait"
"""
ROOM = 2 << 20


def absent(folder: Path) -> Ended:
    ended = framegate(
        folder, "run", "good.mp4", "--store", "unix:///nowhere/valkey.sock", "-d", "x"
    )
    assert not (folder / "x").exists()
    return ended


def midway(meanwhile: Callable[[Path, Command, EmbeddedStore], object]) -> Play:
    """Something happens to the store while a run stands still at frame 20; then it may go on."""

    def play(folder: Path) -> Ended:
        words = ("good.mp4", "-d", "data", "--store")
        with server(folder / "server") as store, held_up(folder, *words, store.url) as run:
            reader = Reader(store.url)
            wait_until("frames are on their way", lambda: reader.entries("good", "out:detect"))
            meanwhile(folder, run, store)
            open_gate(folder)
            ended = run.wait()
            if ended.code == DONE:
                reader.whole("good", GOOD_FRAMES)
            reader.close()
            return ended

    return play


def killed(store: EmbeddedStore) -> None:
    assert store.process is not None
    store.process.kill()
    store.process.wait()


def lost_for_a_while(folder: Path, run: Command, store: EmbeddedStore) -> None:  # noqa: ARG001
    killed(store)
    run.says("trying again")
    store.start()


def lost_for_good(folder: Path, run: Command, store: EmbeddedStore) -> None:  # noqa: ARG001
    """The run waits, longer each time: it could come back. Ctrl-C cannot finish what goes on."""
    killed(store)
    longer = re.compile(r"cannot be reached: .*; trying again in 0\.[1-9]")
    wait_until("it backs off", lambda: longer.search(run.err))
    run.interrupt()
    run.says("a second Ctrl-C stops at once")
    run.interrupt()


def emptied(folder: Path, run: Command, store: EmbeddedStore) -> None:  # noqa: ARG001
    with redis.Redis.from_url(store.url) as client:
        client.flushall()


def replaced(folder: Path, run: Command, store: EmbeddedStore) -> None:  # noqa: ARG001
    """An empty one at the same place: no data, no function library."""
    killed(store)
    for file in (folder / "server" / "appendonlydir").iterdir():
        file.unlink()
    store.start()


def make_evict(store: EmbeddedStore) -> None:
    with redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")


def made_evicting(folder: Path, run: Command, store: EmbeddedStore) -> None:  # noqa: ARG001
    make_evict(store)
    run.says("may evict keys")  # it looks now and then


def evicting(folder: Path) -> Ended:
    with server(folder / "server") as store:
        make_evict(store)
        return framegate(folder, "run", "good.mp4", "--store", store.url, "-d", "data")


def wrong_password(folder: Path) -> Ended:
    """Neither the right one nor the wrong one is ever shown or written down."""
    with server(folder / "server") as store, redis.Redis.from_url(store.url) as client:
        client.config_set("requirepass", "hunter2")
        url = store.url.replace("unix://", "unix://:hunter3@")
        ended = framegate(folder, "run", "good.mp4", "--store", url, "-d", "data")
    assert "hunter" not in ended.err
    assert not (folder / "data").exists()
    return ended


def full_from_the_start(folder: Path) -> Ended:
    with server(folder / "server") as store, redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory", 1 << 20)
        return framegate(folder, "run", "good.mp4", "--store", store.url, "-d", "data")


def full_for_a_while(folder: Path) -> Ended:
    """It says so and waits; with more memory each frame is there once, and nothing twice."""
    user_folder(folder, more=WORDY)
    with server(folder / "server") as store, redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + ROOM)
        with Command(folder, "run", "good.mp4", "--store", store.url, "-d", "data") as run:
            run.says("OOM")
            assert len(client.xrange("fg:{good}:out:wordy")) < GOOD_FRAMES
            client.config_set("maxmemory", 0)
            ended = run.wait()
        reader = Reader(store.url)
        reader.whole("good", GOOD_FRAMES)
        words = [i for i, kind, _ in reader.entries("good", "out:wordy") if kind == "frame"]
        assert words == [f"1-{n}" for n in range(GOOD_FRAMES)]
        reader.close()
        return ended


def no_tls_there(folder: Path) -> Ended:
    listener = Listener("127.0.0.1", free_port(), sha256(b"a password").hexdigest())
    store = EmbeddedStore(folder / "server", "everysec", listener)
    store.start()
    try:
        url = f"rediss://viewer@{listener.address}?socket_timeout=3"
        return framegate(folder, "run", "good.mp4", "--store", url, "-d", "data")
    finally:
        store.stop()


def listens_to_all(folder: Path) -> Ended:
    return framegate(folder, "run", "good.mp4", "--listen", f"127.0.0.1:{free_port()}")


def port_taken(folder: Path) -> Ended:
    (folder / "viewer").write_text("a password", encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("--listen", address, "--listen-password-file", "viewer")
        return framegate(folder, "run", "good.mp4", *words)


CASES = [
    Case("store absent", absent, STORE, ("store unix:///nowhere/valkey.sock cannot be reached",)),
    Case("store with a password", wrong_password, STORE, ("valkey.sock refuses the login: ",)),
    Case("store lost", midway(lost_for_a_while), DONE, ("store", "trying again in")),
    Case("store lost for good", midway(lost_for_good), STOPPED_TWICE, ("cannot be reached: ",)),
    Case("store emptied", midway(emptied), STORE, ("emptied or replaced", "new run")),
    Case("store replaced", midway(replaced), STORE, ("emptied or replaced",)),
    Case(
        "store that may evict",
        evicting,
        STORE,
        ("may evict keys (maxmemory-policy allkeys-lru); allowed is noeviction",),
    ),
    Case(
        "store that may evict from now on",
        midway(made_evicting),
        STORE,
        ("may evict keys (maxmemory-policy allkeys-lru); allowed is noeviction",),
    ),
    Case("store full at the start", full_from_the_start, STORE, ("is full: ", "its maxmemory")),
    Case("store without TLS", no_tls_there, STORE, ("speaks no TLS on this port: use redis://",)),
    Case("listener without password", listens_to_all, USAGE, ("needs a password for its user",)),
    Case(
        "listener at a taken port", port_taken, USAGE, ("Address already in use; give an address",)
    ),
    Case("store full", full_for_a_while, DONE, ("the store takes no writes now: OOM",)),
]
