"""Slots of a fleet as processes of this host, each in a folder of its own, on one store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis

from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.commands import Command, Ended, Reader, framegate, user_folder
from tests.support.runs import wait_until
from tests.support.servers import server


class Fleet:
    """A store, a fleet.toml, and the slots that were started."""

    def __init__(self, folder: Path, store: EmbeddedStore, more: str) -> None:
        self.folder = folder
        self.store = store
        self.url = store.url
        self.reader = Reader(store.url)
        self.stack = ExitStack()
        self._more = more
        self._commands = user_folder(folder / "commands")

    def apply(self, slots: Mapping[str, float], sources: Mapping[str, Mapping[str, Any]]) -> Ended:
        """Write fleet.toml and apply it."""
        lines = [f"[slots.{name}]\ncores = {cores}" for name, cores in slots.items()]
        for name, keys in sources.items():
            lines.append(f"[sources.{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        (self._commands / "fleet.toml").write_text("\n".join(lines), encoding="utf-8")
        return self.does("apply", "fleet.toml")

    def says(self, *words: str) -> Ended:
        """Run `framegate fleet` with these words."""
        return framegate(self._commands, "fleet", *words, "--store", self.url)

    def does(self, *words: str) -> Ended:
        """Run `framegate fleet` with these words, which must succeed."""
        ended = self.says(*words)
        assert ended.code == 0, ended.err
        return ended

    def status(self) -> Any:
        """What `fleet status` shows."""
        return json.loads(self.does("status", "--json").out)

    def start(self, slot: str, host: str, url: str = "", http: str = "off") -> Command:
        """Start a slot as on a host of that name: in a folder of its own.

        url   by which it reaches the store over a link; "": directly
        http  where its HTTP port listens
        """
        folder = self.folder / host
        if not folder.exists():
            user_folder(folder, more=self._more)
        words = ("--slot", slot, "-d", "data", "--store", url or self.url, "--http", http)
        return self.stack.enter_context(Command(folder, "run", *words))

    def slot_of(self, source: str) -> str:
        """The slot to which the plan gives a source."""
        [(_, fields)] = self.reader.client.xrevrange("fg:fleet", count=1)
        return str(json.loads(fields[b"d"])["sources"][source].get("slot", ""))

    def owner(self, source: str) -> str:
        """The name of the run that owns a source."""
        return (self.reader.client.hget(f"fg:{{{source}}}:own", "name") or b"").decode()

    def sign(self, slot: str) -> str:
        """The sign of life of a slot, as JSON; "" without one."""
        return (self.reader.client.get(f"fg:fleet:slot:{slot}") or b"").decode()

    def published(self, source: str) -> int:
        """How many results a source has."""
        return int(self.reader.counters(source).get("published", 0))

    def until(self, source: str, frames: int) -> None:
        """Wait until a source has published so many frames."""
        wait_until(f"{source} has {frames} results", lambda: self.published(source) >= frames)

    def ended(self, source: str) -> bool:
        """Whether the last end of a source is published."""
        entries = self.reader.client.xrevrange(f"fg:{{{source}}}:results", count=1)
        if not entries or entries[0][1][b"k"] != b"end":
            return False
        return bool(msgpack.unpackb(entries[0][1][b"d"])["last"])

    def everything(self) -> str:
        """All that others can see: keys and values of the store, logs, files, command lines."""
        client = self.reader.client
        seen = [self.says("status").out]
        seen += [f"{key}: {client.dump(key)}" for key in client.keys("*")]
        for path in self.folder.glob("*/**/*"):
            if path.is_file():
                seen.append(path.read_bytes().decode(errors="replace"))
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                seen.append(path.read_bytes().decode(errors="replace"))
        return "\n".join(seen)

    def close(self) -> None:
        """End all slots."""
        self.stack.close()
        self.reader.close()


@contextmanager
def fleet(folder: Path, more: str = "") -> Iterator[Fleet]:
    """A store of the test's own and a fleet on it. more: as in `user_folder`, for all slots"""
    with server(folder / "server") as store:
        opened = Fleet(folder, store, more)
        try:
            yield opened
        finally:
            opened.close()


class Checker:
    """Reads result streams from outside as they grow, and checks what must never happen.

    Ids grow; no id has two digests; no entry of an earlier epoch follows one of a later epoch; a
    source has one owner in each generation. `close` raises what was found.
    """

    def __init__(self, url: str, sources: list[str]) -> None:
        self._reader = Reader(url)
        self._sources = sources
        self._last = dict.fromkeys(sources, "0-0")
        self.seen: dict[str, dict[str, bytes]] = {source: {} for source in sources}
        self.owners: dict[tuple[str, bytes], set[bytes]] = {}
        self.faults: list[str] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._closing.wait(0.05):
            with suppress(redis.ConnectionError):  # a test kills the store
                self._look()

    def _look(self) -> None:
        for source in self._sources:
            run, generation = self._reader.client.hmget(f"fg:{{{source}}}:own", "run", "generation")
            if run:
                self.owners.setdefault((source, generation or b""), set()).add(run)
            last = self._last[source]
            for entry, fields in self._reader.client.xrange(
                f"fg:{{{source}}}:results", f"({last}", "+"
            ):
                name = entry.decode()
                if _parts(name) <= _parts(self._last[source]):
                    self.faults.append(f"{source}: {name} follows {self._last[source]}")
                self._last[source] = name
                self.seen[source][name] = fields[b"d"]

    def close(self) -> None:
        """End, look a last time at all entries, and assert that nothing was wrong."""
        self._closing.set()
        self._thread.join()
        self._look()
        for source in self._sources:
            whole = self._reader.client.xrange(f"fg:{{{source}}}:results")
            now = {entry.decode(): fields[b"d"] for entry, fields in whole}
            assert now == self.seen[source], f"{source}: an entry changed or came too late"
            counters = self._reader.counters(source)
            dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
            assert counters.get("decoded", 0) == counters.get("published", 0) + dropped, counters
        self._reader.close()
        several = {key: runs for key, runs in self.owners.items() if len(runs) > 1}
        assert self.faults == []
        assert several == {}, "a generation has two owners"


def _parts(position: str) -> tuple[int, int]:
    epoch, _, seq = position.partition("-")
    return int(epoch), int(seq)


@contextmanager
def checked(url: str, *sources: str) -> Iterator[Checker]:
    """Check these sources during the block, whose end must find them at rest."""
    checker = Checker(url, list(sources))
    try:
        yield checker
    except BaseException:
        checker._closing.set()
        raise
    checker.close()
