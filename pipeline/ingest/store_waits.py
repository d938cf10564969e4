"""The waits of decoders at the store: for room to decode into, and for new epochs.

Each kind has its own connection to each server, so a source's wait or a slow disk never delays the
commits of other sources.

Protocol invariants:

- EpochRequests: one round is in flight. Its replies arrive in order: one for each source asked,
  then one for each durability command. An epoch is given out only after all of these succeeded.
- Rooms: a wait is registered before its `room` is read, so a change after that read always sends a
  notice. The replies themselves carry no news and are discarded.
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
from framegate.pipeline.contracts.spec import TRAIL_FRAMES, WorkerSpec
from framegate.pipeline.store.hop import (
    Command,
    CommitStatus,
    await_command,
    epoch_command,
    replicas_command,
    too_few_replicas,
)
from framegate.pipeline.store.worker_connections import Link, Links

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoomMade:
    """These readers of a source are at `read`: its decoder may have room."""

    source: str
    readers: tuple[str, ...]
    read: Position


@dataclass(frozen=True, slots=True)
class EpochGiven:
    """A source's next epoch, which is durable."""

    source: str
    epoch: int


@dataclass(frozen=True, slots=True)
class EpochRefused:
    """A source gets no epoch: another worker owns it, or the store was emptied."""

    source: str
    status: CommitStatus


WaitOver = RoomMade | EpochGiven | EpochRefused


class StoreWaits:
    """The waits of an ingest worker's sources. One thread."""

    def __init__(self, spec: WorkerSpec, links: Links) -> None:
        """links: give the server of a source and the positions of readers."""
        self._spec = spec
        self._links = links
        self._rooms: dict[str, Rooms] = {}  # by server
        self._epochs: dict[str, EpochRequests] = {}

    def for_epoch(self, source: str, token: bytes, after: int | None) -> None:
        """Wait for a source's next epoch, unless such a wait is active.

        token: of its decode; after: as in epoch_command.
        """
        server = self._links.server_of(source)
        if server not in self._epochs:
            link = self._links.open(source)
            self._epochs[server] = EpochRequests(link, self._spec.run, self._spec.replicas)
        self._epochs[server].ask(source, token, after)

    def for_room(self, source: str, readers: tuple[str, ...], until: Position) -> None:
        """Wait until all of these readers are at `until`, unless such a wait is active."""
        server = self._links.server_of(source)
        if server not in self._rooms:
            link = self._links.open(source)
            self._rooms[server] = Rooms(link)
        self._rooms[server].arm(source, readers, until)

    def descriptors(self) -> list[int]:
        """Return the descriptors to poll; pass the readable ones to `hear`."""
        return [waits.link.fileno() for waits in self._all()]

    def _all(self) -> list[Rooms | EpochRequests]:
        return [*self._rooms.values(), *self._epochs.values()]

    def due_in(self) -> float | None:
        """Return seconds after which to call `hear` in any case, None for never."""
        dues = (rooms.due_in() for rooms in self._rooms.values())
        return min((due for due in dues if due is not None), default=None)

    def hear(self, ready: Collection[int]) -> list[WaitOver]:
        """Return the waits that are over, given the readable descriptors and the time."""
        over: list[WaitOver] = []
        for rooms in self._rooms.values():
            woken = rooms.hear() if rooms.link.fileno() in ready else []
            for source in (*woken, *rooms.overdue()):
                read = rooms.look(self._links.of(source), source)
                over.append(RoomMade(source, rooms.readers_of(source), read))
        for epochs in self._epochs.values():
            if epochs.link.fileno() in ready:
                over += epochs.hear()
        return over

    def forget(self, source: str) -> None:
        """Drop all waits of a source."""
        for waits in self._all():
            waits.forget(source)

    def close(self) -> None:
        """Drop all waits and close the connections."""
        for waits in self._all():
            waits.link.close()
        self._rooms.clear()
        self._epochs.clear()


_ON_DISK: Final[Command] = ("WAITAOF", "1", "0", "5000")


class EpochRequests:
    """Requests for next epochs, on a connection of their own. One thread.

    Before the first frame of an epoch, the epoch must be on disk, because a power cut must not give
    it out twice, and for the same reason on the required replicas, because of failovers. That takes
    up to a second, or as long as replicas are unreachable. Requests that arrive during one round
    form the next round. Log and replication keep the order of writes: where an epoch is, the claim
    before it is, too.
    """

    def __init__(self, link: Link, run: str, replicas: int = 0) -> None:
        self.link = link
        self._run = run
        self._replicas = replicas
        self._next: dict[str, Command] = {}
        self._asked: list[str] = []  # this round, in order; "" for a source that was forgotten
        self._epochs: list[int] = []  # the replies so far
        self._awaited: deque[Command] = deque()
        self._warned = False  # about missing replicas, once while they are missing

    def ask(self, source: str, token: bytes, after: int | None = None) -> None:
        """Ask for the next epoch of a source, unless a request is active."""
        if source not in self._next and source not in self._asked:
            self._next[source] = epoch_command(source, token, self._run, after)
            self._begin()

    def _begin(self) -> None:
        if not self._next or self._asked:
            return
        self._awaited = deque([_ON_DISK])
        if self._replicas:
            self._awaited.append(replicas_command(self._replicas))
        self.link.send(*self._next.values(), *self._awaited)
        self._asked = list(self._next)
        self._epochs = []
        self._next = {}

    def hear(self) -> list[EpochGiven | EpochRefused]:
        """Read the link, which is readable; return durable epochs and refusals."""
        self.link.fill()
        over: list[EpochGiven | EpochRefused] = []
        while self._asked and self.link.has_reply():
            if len(self._epochs) < len(self._asked):
                refused = self._note(self.link.receive())
                if refused is not None:
                    over.append(refused)
                continue
            command = self._awaited.popleft()
            if not self._is_durable(command):
                self._awaited.append(command)
                self.link.send(command)
            if not self._awaited:
                given = zip(self._asked, self._epochs, strict=True)
                over += [EpochGiven(source, epoch) for source, epoch in given if source]
                self._asked = []
                self._begin()
        return over

    def _note(self, reply: list[bytes]) -> EpochRefused | None:
        """Keep an epoch until it is durable; return a refusal at once."""
        if reply[0] == b"OK":
            self._epochs.append(int(reply[1]))
            return None
        index = len(self._epochs)
        source = self._asked[index]
        self._epochs.append(0)
        self._asked[index] = ""
        return EpochRefused(source, CommitStatus(reply[0])) if source else None

    def _is_durable(self, command: Command) -> bool:
        """Read the reply to a durability command; return whether its condition is fulfilled."""
        try:
            reply = self.link.receive()
        except StoreRefused as refused:
            if command is not _ON_DISK or "appendonly" not in str(refused):
                raise
            return True  # the store keeps no log: epochs are as durable as all its data
        if command is _ON_DISK:
            return bool(reply[0])
        lacks_replicas = bool(reply < self._replicas)
        if lacks_replicas and not self._warned:
            missing = too_few_replicas(reply, self._replicas)
            waiting = ", ".join(source for source in self._asked if source)
            log.warning("source %s: its next epoch waits: %s", waiting, missing)
        self._warned = lacks_replicas
        return not lacks_replicas

    def forget(self, source: str) -> None:
        """Give this source no epoch of a request made before; it may ask again."""
        self._next.pop(source, None)
        self._asked = ["" if asked == source else asked for asked in self._asked]


SAFETY_S: Final = 5.0  # after which room is looked for even without a notice


class Rooms:
    """The waits for room of all sources of a server, on a connection of their own. One thread.

    A decoder without credit sleeps until its slowest reader has made room. By client tracking the
    server notifies the client when a key changes that was read over its connection, here the
    source's `room`. A blocking read would need one connection for each source.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._readers: dict[str, tuple[str, ...]] = {}  # of a source
        self._slowest: dict[str, str] = {}
        self._until: dict[str, float] = {}  # when a wait is overdue, the oldest first
        self._source_of: dict[bytes, str] = {}  # by key
        link.call("HELLO", "3")
        link.call("CLIENT", "TRACKING", "ON", "OPTIN")

    def arm(self, source: str, readers: tuple[str, ...], position: Position) -> None:
        """Wait until the slowest reader is at `position`, unless a wait is active; `hear` then
        returns the source.

        `room` is read first, and after that each change of it sends a notice, also the change by
        the last command if the reader is at the position already. So no change is lost between
        the check and the wait.
        """
        if source in self._until:
            return
        self._readers[source] = readers
        slowest = self._slowest.get(source, "")
        if slowest not in readers:
            slowest = readers[0]
        room = keys.room(source)
        self._source_of[room.encode()] = source
        self._until[source] = time.monotonic() + SAFETY_S
        self.link.send(
            ("CLIENT", "CACHING", "YES"),  # track what the next command reads
            ("XREVRANGE", room, "+", "-", "COUNT", "1"),
            await_command(source, slowest, position),
        )

    def hear(self) -> list[str]:
        """Read the link, which is readable; return the sources whose wait is over."""
        self.link.fill()
        woken: list[str] = []
        while self.link.has_reply():
            reply = self.link.receive()
            if isinstance(reply, hiredis.PushNotification):
                changed = self._source_of if reply[1] is None else reply[1]  # None: any key
                names = [self._source_of[key] for key in changed if key in self._source_of]
                woken += [name for name in names if self._until.pop(name, None)]
        return woken

    def overdue(self) -> list[str]:
        """End the waits that took SAFETY_S, and return their sources: a notice may be missing."""
        late: list[str] = []
        while self.due_in() == 0.0:
            source = next(iter(self._until))
            del self._until[source]
            late.append(source)
        return late

    def due_in(self) -> float | None:
        """Return seconds until the first wait is overdue, None if there is none."""
        first = next(iter(self._until.values()), None)
        return None if first is None else max(0.0, first - time.monotonic())

    def readers_of(self, source: str) -> tuple[str, ...]:
        """Return the readers of the source's last wait."""
        return self._readers[source]

    def look(self, link: Link, source: str) -> Position:
        """Return the position that its readers have reached. link: another connection."""
        self._slowest[source], read = slowest_reader(link, source, self._readers[source])
        return read

    def forget(self, source: str) -> None:
        """Drop the wait of a source."""
        self._until.pop(source, None)
        self._slowest.pop(source, None)
        self._readers.pop(source, None)
        self._source_of.pop(keys.room(source).encode(), None)


def slowest_reader(link: Link, source: str, readers: tuple[str, ...]) -> tuple[str, Position]:
    """Return the slowest active reader and its position; a position far ahead if none is active."""
    link.send(*(("HMGET", keys.at(source, reader), "p", "gone") for reader in readers))
    positions: dict[str, Position] = {}
    for reader in readers:
        position, gone = link.receive()
        if not gone:
            positions[reader] = Position.parse(position) if position else START
    if not positions:
        return readers[0], Position(2**62, 0)
    slowest = min(positions, key=positions.__getitem__)
    return slowest, positions[slowest]


def trail_of(until: Position) -> Position:
    """Return the position that trailing readers must have when the others are at `until`.

    In the first frames of an epoch, that is the begin of the epoch before: a decoder never waits
    for the position of a frame that it has just put.
    """
    if until.seq < TRAIL_FRAMES:
        return Position(until.epoch - 1, 0)
    return Position(until.epoch, until.seq - TRAIL_FRAMES)
