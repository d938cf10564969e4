"""What an ingest worker waits for from the store: room to decode into, and new epochs.

Each kind has a connection of its own to each server, so that no source's wait holds up another.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection

import hiredis

from framegate.pipeline import keys
from framegate.pipeline.errors import StoreRefused
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.records import START, Position
from framegate.pipeline.spec import WorkerSpec
from framegate.pipeline.store.connection import Command, Link
from framegate.pipeline.store.hop import (
    CommitStatus,
    await_command,
    epoch_command,
    replicas_command,
    too_few_replicas,
)
from framegate.pipeline.store.links import Links

# -- Asking for sources' next epochs without holding the other sources up. An epoch must be on
# disk before its first frame (a power cut must not give the same one twice), and on the replicas
# that are asked for (nor must a failover). That takes up to a second, or as long as they are
# away: so the requests have a connection of their own. What is asked for while one round is
# waited for waits for the next, all of it together. Log and replication keep the order of writes:
# with an epoch, the claim before it is there as well.


log = logging.getLogger(__name__)

_ON_DISK: Command = ("WAITAOF", "1", "0", "5000")


class EpochRequests:
    """Requests under way, by source, on a connection of their own. One thread."""

    def __init__(self, link: Link, run: str, replicas: int = 0) -> None:
        self.link = link
        self._run, self._replicas = run, replicas
        self._next: dict[str, Command] = {}
        self._asked: list[str] = []  # in this round, in order; empty: nobody wants it any more
        self._got: list[int] = []
        self._awaited: deque[Command] = deque()
        self._told = False  # that replicas are away; once, while they are

    def ask(self, source: str, token: bytes) -> None:
        """Ask for the next epoch of a source, unless that is under way."""
        if source not in self._next and source not in self._asked:
            self._next[source] = epoch_command(source, token, self._run)
            self._begin()

    def _begin(self) -> None:
        if self._next and not self._asked:
            replicated = [replicas_command(self._replicas)] if self._replicas else []
            self._awaited = deque([_ON_DISK, *replicated])
            self.link.send(*self._next.values(), *self._awaited)
            self._asked, self._got, self._next = list(self._next), [], {}

    def hear(self) -> dict[str, int | CommitStatus]:
        """Call when the link is readable: epochs that cannot be lost, or why there is none."""
        self.link.fill()
        given: dict[str, int | CommitStatus] = {}
        while self._asked and self.link.here():
            if len(self._got) < len(self._asked):
                given |= self._verdict(self.link.receive())
                continue
            command = self._awaited.popleft()
            if not self._reached(command):
                self._awaited.append(command)
                self.link.send(command)
            if not self._awaited:
                given |= dict(zip(self._asked, self._got, strict=True))
                self._asked = []
                self._begin()
        given.pop("", None)
        return given

    def _verdict(self, reply: list[bytes]) -> dict[str, CommitStatus]:
        """Note an epoch; why there is none is told at once."""
        at = len(self._got)
        if reply[0] == b"OK":
            self._got.append(int(reply[1]))
            return {}
        self._got.append(0)
        source, self._asked[at] = self._asked[at], ""
        return {source: CommitStatus(reply[0])}

    def _reached(self, command: Command) -> bool:
        try:
            reply = self.link.receive()
        except StoreRefused as refused:
            if command is not _ON_DISK or "appendonly" not in str(refused):
                raise
            return True  # the store keeps no log: epochs are as durable as it is
        if command is _ON_DISK:
            return bool(reply[0])
        away = bool(reply < self._replicas)
        if away and not self._told:
            missing = too_few_replicas(reply, self._replicas)
            waiting = ", ".join(source for source in self._asked if source)
            log.warning("source %s: its next epoch waits: %s", waiting, missing)
        self._told = away
        return not away

    def forget(self, source: str) -> None:
        """Whatever is said of this source is not for the one that may come back."""
        self._next.pop(source, None)
        self._asked = ["" if asked == source else asked for asked in self._asked]


# -- A decoder without credit sleeps here until the slowest reader has made room. The waits of all
# sources that one server holds share a connection: the server tells it, unasked, when a key
# changes that was read over it (client tracking), here the source's `room`. A blocking read would
# be one connection for each source.


SAFETY_S = 5.0


class Rooms:
    """Waits for room, by source, on a connection of their own. One thread."""

    def __init__(self, link: Link, readers: tuple[str, ...]) -> None:
        """readers: the last of the reliable ones."""
        self.link = link
        self._readers = readers
        self._slowest: dict[str, str] = {}
        self._until: dict[str, float] = {}  # when a wait is looked after anyway, the oldest first
        self._whose: dict[bytes, str] = {}
        link.call("HELLO", "3")
        link.call("CLIENT", "TRACKING", "ON", "OPTIN")

    def arm(self, source: str, position: Position) -> None:
        """Wait until the slowest reader is at `position`, unless a wait is under way; `woken`
        tells.
        """
        if source in self._until:
            return
        room = keys.room(source)
        self._whose[room.encode()] = source
        self._until[source] = time.monotonic() + SAFETY_S
        self.link.send(
            ("CLIENT", "CACHING", "YES"),
            ("XREVRANGE", room, "+", "-", "COUNT", "1"),  # from here on its change is told
            await_command(source, self._slowest.get(source, self._readers[0]), position),
        )

    def hear(self) -> list[str]:
        """Call when the link is readable: sources whose wait is over."""
        self.link.fill()
        woken: list[str] = []
        while self.link.here():
            said = self.link.receive()
            if isinstance(said, hiredis.PushNotification):
                changed = self._whose if said[1] is None else said[1]  # None: any may have
                names = [self._whose[key] for key in changed if key in self._whose]
                woken += [name for name in names if self._until.pop(name, None)]
        return woken

    def overdue(self) -> list[str]:
        """Sources that waited for long: a look does no harm. Their wait is over, too."""
        late: list[str] = []
        while self.due_in() == 0.0:
            late.append(next(iter(self._until)))
            del self._until[late[-1]]
        return late

    def due_in(self) -> float | None:
        """Seconds until a wait is overdue; None if there is none."""
        first = next(iter(self._until.values()), None)
        return None if first is None else max(0.0, first - time.monotonic())

    def look(self, link: Link, source: str) -> Position:
        """Where all reliable readers of a source are. link: another one."""
        self._slowest[source], read = slowest(link, source, self._readers)
        return read

    def forget(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        self._until.pop(source, None)
        self._slowest.pop(source, None)
        self._whose.pop(keys.room(source).encode(), None)


def slowest(link: Link, source: str, readers: tuple[str, ...]) -> tuple[str, Position]:
    """The slowest reader that was not given up, and where it stands; far ahead if none is left."""
    link.send(*(("HMGET", keys.at(source, reader), "p", "gone") for reader in readers))
    found = {reader: link.receive() for reader in readers}
    at = {r: Position.parse(p) if p else START for r, (p, gone) in found.items() if not gone}
    last = min(at, key=at.__getitem__, default=None)
    return (last, at[last]) if last is not None else (readers[0], Position(2**62, 0))


Answer = Position | int | CommitStatus


class Errands:
    """Waits under way, by source. One thread."""

    def __init__(self, spec: WorkerSpec, links: Links) -> None:
        self._spec, self._links = spec, links
        self._rooms: dict[str, Rooms] = {}  # by server
        self._epochs: dict[str, EpochRequests] = {}

    def run_for(self, feed: Feed) -> None:
        """Start waiting for what this source cannot go on without, unless that is under way."""
        source = feed.spec.name
        if feed.needs_epoch():
            self._epochs_of(source).ask(source, feed.token)
        elif feed.thread is not None and (until := feed.thread.waits_for) is not None:
            self._rooms_of(source).arm(source, until)

    def _epochs_of(self, source: str) -> EpochRequests:
        server = self._links.server_of(source)
        if server not in self._epochs:
            link = self._links.open(source)
            self._epochs[server] = EpochRequests(link, self._spec.run, self._spec.replicas)
        return self._epochs[server]

    def _rooms_of(self, source: str) -> Rooms:
        server = self._links.server_of(source)
        if server not in self._rooms:
            link = self._links.open(source)
            self._rooms[server] = Rooms(link, self._spec.last_readers())
        return self._rooms[server]

    def descriptors(self) -> list[int]:
        """To be polled."""
        return [each.link.fileno() for each in self._all()]

    def _all(self) -> list[Rooms | EpochRequests]:
        return [*self._rooms.values(), *self._epochs.values()]

    def due_in(self) -> float | None:
        """Seconds after which `answers` is to be called in any case; None: never."""
        dues = (rooms.due_in() for rooms in self._rooms.values())
        return min((due for due in dues if due is not None), default=None)

    def answers(self, ready: Collection[int]) -> list[tuple[str, Answer]]:
        """What is known now, of these descriptors: where all readers of a source are (there is
        room again), the number of its new epoch, or why there is none.
        """
        found: list[tuple[str, Answer]] = []
        for rooms in self._rooms.values():
            woken = rooms.hear() if rooms.link.fileno() in ready else []
            for source in (*woken, *rooms.overdue()):
                found.append((source, rooms.look(self._links.of(source), source)))
        for epochs in self._epochs.values():
            if epochs.link.fileno() in ready:
                found += epochs.hear().items()
        return found

    def drop(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        for each in self._all():
            each.forget(source)

    def drop_all(self) -> None:
        """Wait for nothing: the connection to the store is made anew."""
        for each in self._all():
            each.link.close()
        self._rooms.clear()
        self._epochs.clear()
