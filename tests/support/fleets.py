"""Slots of a fleet as processes of this host, each in a folder of its own, on one store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from benchmarks.harness.process_tree import tree
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.commands import Command, Ended, Reader, framegate, user_folder
from tests.support.orphans import all_end
from tests.support.runs import wait_until
from tests.support.servers import server


class Fleet:
    """A store, a fleet.toml, and the slots that were started.

    store  its server, of those that `fleet` opens
    """

    store: EmbeddedStore

    def __init__(self, folder: Path, url: str, more: str) -> None:
        self.folder = folder
        self.url = url
        self.reader = Reader(url)
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

    def start(
        self, slot: str, host: str, url: str = "", http: str = "off", package: Path | None = None
    ) -> Command:
        """Start a slot as on a host of that name: in a folder of its own.

        url      by which it reaches the store over a link; "": directly
        http     where its HTTP port listens
        package  as in `Command`
        """
        folder = self.folder / host
        if not folder.exists():
            user_folder(folder, more=self._more)
        words = ("--slot", slot, "-d", "data", "--store", url or self.url, "--http", http)
        return self.stack.enter_context(Command(folder, "run", *words, package=package))

    def kill(self, slot: Command) -> None:
        """Kill the supervisor of a slot, and wait until no process of the slot is left."""
        with all_end(tree(slot.process.pid)):
            slot.kill()

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
        opened = Fleet(folder, store.url, more)
        opened.store = store
        try:
            yield opened
        finally:
            opened.close()
