"""What decoders wait for from the store: room to decode into, and new epochs.

Each of the two has a connection of its own to each server, so that neither a source's wait nor a
slow disk holds up the commits of the others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import hiredis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import StoreRefused
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.spec import WorkerSpec
from framegate.pipeline.store.connection import Command, Link
from framegate.pipeline.store.hop import (
    CommitStatus,
    await_command,
    epoch_command,
    replicas_command,
    too_few_replicas,
)
from framegate.pipeline.store.links import Links

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoomMade:
    """All reliable readers of a source are at `read`: there may be room again."""

    source: str
    read: Position


@dataclass(frozen=True, slots=True)
class EpochGiven:
    """A source's next epoch, which cannot be lost any more."""

    source: str
    epoch: int


@dataclass(frozen=True, slots=True)
class EpochRefused:
    """A source gets no epoch: it is another worker's, or the store was emptied."""

    source: str
    status: CommitStatus


WaitOver = RoomMade | EpochGiven | EpochRefused


class StoreWaits:
    """The waits of an ingest worker's sources, on one set of connections. One thread."""

    def __init__(self, spec: WorkerSpec, links: Links) -> None:
        """Wait for nothing yet. links: say which server holds a source, and where readers are."""
        self._spec, self._links = spec, links
        self._rooms: dict[str, Rooms] = {}  # by server
        self._epochs: dict[str, EpochRequests] = {}

    def for_epoch(self, source: str, token: bytes, after: int | None) -> None:
        """Wait for a source's next epoch, unless that is under way.

        token: of its decode; after: as of epoch_command
        """
        server = self._links.server_of(source)
        if server not in self._epochs:
            link = self._links.open(source)
            self._epochs[server] = EpochRequests(link, self._spec.run, self._spec.replicas)
        self._epochs[server].ask(source, token, after)

    def for_room(self, source: str, live: bool, until: Position) -> None:
        """Wait until all reliable readers are at `until`, unless a wait is under way.

        live: whether it is a camera
        """
        server = self._links.server_of(source)
        if server not in self._rooms:
            link = self._links.open(source)
            self._rooms[server] = Rooms(link)
        self._rooms[server].arm(source, self._spec.last_readers(live), until)

    def descriptors(self) -> list[int]:
        """To be polled; `hear` takes those that are readable."""
        return [each.link.fileno() for each in self._all()]

    def _all(self) -> list[Rooms | EpochRequests]:
        return [*self._rooms.values(), *self._epochs.values()]

    def due_in(self) -> float | None:
        """Seconds after which `hear` is to be called in any case; None: never."""
        dues = (rooms.due_in() for rooms in self._rooms.values())
        return min((due for due in dues if due is not None), default=None)

    def hear(self, ready: Collection[int]) -> list[WaitOver]:
        """Which waits are over, by what these descriptors and the time say."""
        over: list[WaitOver] = []
        for rooms in self._rooms.values():
            woken = rooms.hear() if rooms.link.fileno() in ready else []
            for source in (*woken, *rooms.overdue()):
                over.append(RoomMade(source, rooms.look(self._links.of(source), source)))
        for epochs in self._epochs.values():
            if epochs.link.fileno() in ready:
                over += epochs.hear()
        return over

    def forget(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        for each in self._all():
            each.forget(source)

    def close(self) -> None:
        """Wait for nothing any more, and close the connections."""
        for each in self._all():
            each.link.close()
        self._rooms.clear()
        self._epochs.clear()


_ON_DISK: Final[Command] = ("WAITAOF", "1", "0", "5000")


class EpochRequests:
    """Requests for next epochs under way, on a connection of their own. One thread.

    An epoch must be on disk before its first frame (a power cut must not give the same one twice),
    and on the replicas that are asked for (nor must a failover). That takes up to a second, or as
    long as they are away. What is asked for while one round is waited for waits for the next, all
    of it together. Log and replication keep the order of writes: with an epoch, the claim before it
    is there as well.
    """

    def __init__(self, link: Link, run: str, replicas: int = 0) -> None:
        self.link = link
        self._run, self._replicas = run, replicas
        self._next: dict[str, Command] = {}
        self._asked: list[str] = []  # in this round, in order; empty: nobody wants it any more
        self._got: list[int] = []
        self._awaited: deque[Command] = deque()
        self._warned = False  # that replicas are away; once, while they are

    def ask(self, source: str, token: bytes, after: int | None = None) -> None:
        """Ask for the next epoch of a source, unless that is under way."""
        if source not in self._next and source not in self._asked:
            self._next[source] = epoch_command(source, token, self._run, after)
            self._begin()

    def _begin(self) -> None:
        if self._next and not self._asked:
            replicated = [replicas_command(self._replicas)] if self._replicas else []
            self._awaited = deque([_ON_DISK, *replicated])
            self.link.send(*self._next.values(), *self._awaited)
            self._asked, self._got, self._next = list(self._next), [], {}

    def hear(self) -> list[EpochGiven | EpochRefused]:
        """Call when the link is readable: epochs that cannot be lost, and refusals."""
        self.link.fill()
        over: list[EpochGiven | EpochRefused] = []
        while self._asked and self.link.here():
            if len(self._got) < len(self._asked):
                refused = self._note(self.link.receive())
                over += [refused] if refused is not None else []
                continue
            command = self._awaited.popleft()
            if not self._reached(command):
                self._awaited.append(command)
                self.link.send(command)
            if not self._awaited:
                given = zip(self._asked, self._got, strict=True)
                over += [EpochGiven(source, epoch) for source, epoch in given if source]
                self._asked = []
                self._begin()
        return over

    def _note(self, reply: list[bytes]) -> EpochRefused | None:
        """Note an epoch until it cannot be lost; a refusal need not wait for that."""
        if reply[0] == b"OK":
            self._got.append(int(reply[1]))
            return None
        at = len(self._got)
        self._got.append(0)
        source, self._asked[at] = self._asked[at], ""
        return EpochRefused(source, CommitStatus(reply[0])) if source else None

    def _reached(self, command: Command) -> bool:
        """Return whether what was written is where `command` waits for it to be."""
        try:
            reply = self.link.receive()
        except StoreRefused as refused:
            if command is not _ON_DISK or "appendonly" not in str(refused):
                raise
            return True  # the store keeps no log: epochs are as durable as it is
        if command is _ON_DISK:
            return bool(reply[0])
        away = bool(reply < self._replicas)
        if away and not self._warned:
            missing = too_few_replicas(reply, self._replicas)
            waiting = ", ".join(source for source in self._asked if source)
            log.warning("source %s: its next epoch waits: %s", waiting, missing)
        self._warned = away
        return not away

    def forget(self, source: str) -> None:
        """Give nothing to this source any more: it may come back, and ask anew."""
        self._next.pop(source, None)
        self._asked = ["" if asked == source else asked for asked in self._asked]


SAFETY_S: Final = 5.0


class Rooms:
    """StoreWaits for room, by source, on a connection of their own. One thread.

    A decoder without credit sleeps until the slowest reader has made room. The server tells a
    client, unasked, when a key changes that was read over its connection (client tracking), here
    the source's `room`; a blocking read would need a connection for each source.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._readers: dict[str, tuple[str, ...]] = {}  # of a source
        self._slowest: dict[str, str] = {}
        self._until: dict[str, float] = {}  # when a wait is looked after anyway, the oldest first
        self._whose: dict[bytes, str] = {}
        link.call("HELLO", "3")
        link.call("CLIENT", "TRACKING", "ON", "OPTIN")

    def arm(self, source: str, readers: tuple[str, ...], position: Position) -> None:
        """Wait until the slowest of these is at `position`, unless a wait is under way; `hear`
        tells. readers: the last of the source's reliable ones

        The order matters: `room` is read first, and from then on each change of it is told, also
        the one by the last command itself, should the reader be there already. So nothing can come
        between finding that there is no room and waiting for it. The replies say nothing that this
        does not, and are passed over in `hear`: nobody has to count how many are still owed.
        """
        if source in self._until:
            return
        self._readers[source] = readers
        room = keys.room(source)
        self._whose[room.encode()] = source
        self._until[source] = time.monotonic() + SAFETY_S
        self.link.send(
            ("CLIENT", "CACHING", "YES"),  # track what the next command reads
            ("XREVRANGE", room, "+", "-", "COUNT", "1"),
            await_command(source, self._slowest.get(source, readers[0]), position),
        )

    def hear(self) -> list[str]:
        """Call when the link is readable: sources whose wait is over."""
        self.link.fill()
        woken: list[str] = []
        while self.link.here():
            reply = self.link.receive()
            if isinstance(reply, hiredis.PushNotification):
                changed = self._whose if reply[1] is None else reply[1]  # None: any may have
                names = [self._whose[key] for key in changed if key in self._whose]
                woken += [name for name in names if self._until.pop(name, None)]
        return woken

    def overdue(self) -> list[str]:
        """Sources that waited for SAFETY_S: looking does no harm. Their wait is over, too."""
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
        self._slowest[source], read = slowest_reader(link, source, self._readers[source])
        return read

    def forget(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        self._until.pop(source, None)
        self._slowest.pop(source, None)
        self._readers.pop(source, None)
        self._whose.pop(keys.room(source).encode(), None)


def slowest_reader(link: Link, source: str, readers: tuple[str, ...]) -> tuple[str, Position]:
    """The slowest reader that was not given up, and where it stands; far ahead if none is left."""
    link.send(*(("HMGET", keys.at(source, reader), "p", "gone") for reader in readers))
    found = {reader: link.receive() for reader in readers}
    at = {r: Position.parse(p) if p else START for r, (p, gone) in found.items() if not gone}
    last = min(at, key=at.__getitem__, default=None)
    return (last, at[last]) if last is not None else (readers[0], Position(2**62, 0))
