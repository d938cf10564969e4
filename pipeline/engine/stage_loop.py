"""The loop of a worker that does not decode: read, run the stages, commit.

Invariants of the loop:

1. A link carries at most one read at a time (`_Reads.state`).
2. Redis and Valkey answer the commands of a connection in their order, so replies are taken in the
   order in which the commands were sent.
3. A commit is never sent behind a read that blocks, because it would wait for up to 5 s. It takes a
   spare link to the same server.
4. A commit and the next read leave in one write, the commit first. Its reply comes at once, that of
   the read as soon as there is something to read.
5. `_read_to` is the position up to which the inbox of a head was filled; after an attach it is the
   committed position. A stale source, whose position in the store differs, is attached again first.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from typing import Any

from framegate.pipeline.contracts.errors import Fenced
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import REST_S
from framegate.pipeline.engine.runner import PendingCommits, Runner, hops
from framegate.pipeline.engine.stream_entries import input_stream
from framegate.pipeline.store.hop import Command
from framegate.pipeline.store.worker_connections import Link, Links, readable

READ_COUNT = "64"  # entries of a stream in one reply, at most
PLENTY = 16  # entries in an inbox; with more, the source is not read
CHECK_S = 4.0  # between two looks at the tokens
_BLOCK = ("BLOCK", "5000")
_BLOCK_SHORTLY = ("BLOCK", "50")  # pixels of a frame are being decoded again: try the frame soon

# Pause between two reads, for each stream. A read costs the server as much for an empty stream as
# for another, so a worker of many streams lets entries gather. Shorter pauses are left out.
_REST_S = 20e-6
_MIN_REST_S = 1e-3


class StageLoop:
    """The work of one worker's stages, on one set of connections after another. One thread."""

    def __init__(self, runner: Runner, line: ControlLine, rest_s: float = 0.0) -> None:
        """Work with these stages.

        rest_s  seconds between two reads of a link, while few entries come
        """
        self._runner = runner
        self._line = line
        self._rest_s = rest_s
        self._session: StageSession | None = None  # the last one

    def connected(self) -> bool:
        """Return whether the last session finished at least one turn."""
        return self._session is not None and self._session.turns > 0

    def serve(self, links: Links) -> None:
        """Work until there is an order, or a new set of sources, which needs new connections.

        Raises Fenced when other workers took all sources over. A broken connection ends the session
        with StoreLost, and everything that is not in the store is forgotten. It does not matter
        whether a commit whose reply was lost is in the store: the next session reads the stages'
        positions there. If the commit is missing, the same frames run again from the same state and
        give the same bytes.
        """
        self._session = None
        self._session = StageSession(self._runner, self._line, links, self._rest_s)
        self._session.serve()


@dataclass(frozen=True, slots=True)
class _ReadUnderWay:
    """A read was sent and its reply is not taken.

    blocks  the server delays the reply until there is an entry, or BLOCK is over
    """

    blocks: bool


@dataclass(frozen=True, slots=True)
class _LinkFree:
    """No read is under way; the next is sent `from_mono` (monotonic seconds) at the earliest."""

    from_mono: float = 0.0


class _Reads:
    """The streams that are read over one link: those of all sources, or of a cluster's node.

    readers  the stages that read a stream, each with the source
    state    a read is under way, or the link is free
    """

    def __init__(self, link: Link, rest_s: float) -> None:
        self.link = link
        self._rest_s = rest_s
        self.sources: list[str] = []
        self.readers: dict[bytes, list[tuple[str, HostedStage]]] = {}
        self.state: _ReadUnderWay | _LinkFree = _LinkFree()
        self.checked_mono = 0.0

    @property
    def pending(self) -> bool:
        """Return whether the reply to a read is still to come."""
        return isinstance(self.state, _ReadUnderWay)

    def rests_s(self, now: float) -> float | None:
        """Return the seconds until the next read; None if a read is under way or may be sent."""
        if isinstance(self.state, _ReadUnderWay) or not self.state.from_mono:
            return None
        return max(0.0, self.state.from_mono - now)

    def send(self, commands: list[Command], read: Command | None) -> None:
        """Write commands, and the next read after them, in one go. The link must be free."""
        assert not self.pending
        if read is not None:
            self.link.send(*commands, read)
            self.state = _ReadUnderWay(blocks="BLOCK" in read)
        elif commands:
            self.link.send(*commands)

    def take(self) -> list[list[Any]] | None:
        """Wait for the reply to the read and return it; None if there was nothing to read."""
        reply: list[list[Any]] | None = self.link.receive()
        self.state = _LinkFree()
        rest_s = _REST_S * len(self.readers)
        if all(len(entries) < PLENTY for _, entries in reply or ()):
            rest_s = max(rest_s, self._rest_s)
        if rest_s >= _MIN_REST_S:
            self.state = _LinkFree(time.monotonic() + rest_s)
        return reply


class StageSession:
    """The loop on one set of connections. One thread.

    turns  finished turns; the store has the commits of each
    """

    def __init__(
        self, runner: Runner, line: ControlLine, links: Links, rest_s: float = 0.0
    ) -> None:
        """Begin without a source. rest_s: see StageLoop."""
        self.turns = 0
        self._rest_s = rest_s
        self._runner = runner
        self._line = line
        self._links = links
        self._sources = line.sources
        names = {stage.spec.name for stage in runner.hosted}
        self._heads = [stage for stage in runner.hosted if stage.spec.input not in names]
        self._read_to: dict[tuple[str, str], Position] = {}  # by (source, head)
        self._reads: dict[Link, _Reads] = {}

    def serve(self) -> None:
        """Attach to the store and work; see StageLoop.serve."""
        runner = self._runner
        if self._sources is not None:
            runner.take_sources(self._sources)
        runner.make_all_trims_due()
        served = runner.set_aside(self._links)
        for source, trim in runner.trims(served):
            self._links.of(source).call(*trim)
        self._attach(served)
        while not self._has_order():
            if not runner.sources:
                self._await_sources()
                return
            sent = self._commit_and_read(runner.step())
            if not self._receive_reads(wait=sent or runner.is_idle()):
                return
            self._attach_stale()
            self.turns += 1

    def _has_order(self) -> bool:
        """Return whether there is an order, other sources, or a server that was lost is back."""
        has_other_sources = self._line.sources is not self._sources
        return self._line.ordered is not None or has_other_sources or self._links.has_changed

    def _await_sources(self) -> None:
        """Sleep until there is an order or a source. Raise Fenced if the worker lost all it had."""
        if self._runner.fenced:
            raise Fenced("another worker has taken over all sources")
        while not self._has_order():
            readable([self._line.wake])
            os.eventfd_read(self._line.wake)

    # -- positions in the store

    def _attach(self, sources: list[str]) -> None:
        self._runner.attach(self._links, sources)
        for stage in self._heads:
            for source in sources:
                if source in self._runner.sources:
                    position = stage.checkpoints[source].position
                    self._read_to[source, stage.spec.name] = position
        self._list_readers()

    def _attach_stale(self) -> None:
        """Attach again to sources whose position in the store is not the one known here.

        Attaching takes the next reply on the source's link, so it waits until the link is free. A
        read that is still under way began after the old position, and frames before it may be
        missing; `_take` drops the entries of a stale source.
        """
        if not self._runner.stale:
            return
        busy: set[str] = set()
        for reads in self._reads.values():
            if reads.pending:
                busy.update(reads.sources)
        free = self._runner.stale - busy
        if free:
            self._attach(list(free))

    def _list_readers(self) -> None:
        """List the streams and their readers of each link, for the sources that are served."""
        before = self._reads
        self._reads = {}
        for source in filter(self._links.has, self._runner.sources):
            link = self._links.of(source)
            reads = self._reads.get(link)
            if reads is None:
                reads = before.get(link) or _Reads(link, self._rest_s)
                reads.sources = []
                reads.readers = {}
                self._reads[link] = reads
            reads.sources.append(source)
            for stage in self._heads:
                stream = input_stream(self._runner.spec, stage.spec.name, source).encode()
                reads.readers.setdefault(stream, []).append((source, stage))

    def _check_tokens(self, reads: _Reads) -> None:
        """Look at the tokens every CHECK_S.

        A worker that commits learns from the reply that another replaced it. A worker without work
        has no such reply, and must end too.
        """
        now = time.monotonic()
        if now - reads.checked_mono > CHECK_S:
            reads.checked_mono = now
            self._runner.check_tokens(reads.link, reads.sources)
            self._list_readers()

    # -- commits and reads

    def _commit_and_read(self, pending: PendingCommits) -> bool:
        """Send the commits and the next reads, settle the commits; return whether a read was sent.

        At a live pace a stage wakes once for each frame. A second write would add a system call
        here and a wake-up of the server to each of them.
        """
        free = [reads.sources for reads in self._reads.values() if not reads.pending]
        # Trims wait until a link is free: they are not worth a spare link.
        trims = self._runner.trims(itertools.chain.from_iterable(free))
        parts = self._links.parts(hops(pending), trims)
        sent = False
        now = time.monotonic()
        for link, reads in self._reads.items():
            part = parts.get(link)
            commands = []
            if part is not None:
                commands = part.commands()
            if isinstance(reads.state, _LinkFree):
                read = None
                if now >= reads.state.from_mono:
                    reads.state = _LinkFree()  # the pause is over, even if no inbox has room
                    read = self._next_read(reads)
                reads.send(commands, read)
                sent |= read is not None
            elif part is not None and reads.state.blocks:
                # The server would run the commit when the read ends, up to 5 s later.
                part.link = self._links.spare(link)
                part.link.send(*commands)
            elif part is not None:
                # The reply of a read that does not block is on its way and precedes the commit's.
                self._take(reads)
                reads.send(commands, None)
        served = len(self._runner.sources)
        for part in parts.values():
            for source, reply in part.receive():
                self._runner.settle(source, pending[source], reply)
        if len(self._runner.sources) < served:
            self._list_readers()
        return sent

    def _next_read(self, reads: _Reads) -> Command | None:
        """Return the read of the streams with a reader that has room; None if there is none."""
        streams = {
            stream: min(self._read_to[source, stage.spec.name] for source, stage in readers)
            for stream, readers in reads.readers.items()
            if any(self._has_room(source, stage) for source, stage in readers)
        }
        if not streams:
            return None
        block: tuple[str, ...] = ()
        if self._runner.is_idle():
            block = _BLOCK
            if self._runner.held_back.lacks_pixels():
                block = _BLOCK_SHORTLY
        ids = map(str, streams.values())
        return ("XREAD", "COUNT", READ_COUNT, *block, "STREAMS", *streams, *ids)

    def _has_room(self, source: str, stage: HostedStage) -> bool:
        return self._runner.inboxes[stage.spec.name].count(source) < PLENTY

    def _receive_reads(self, wait: bool) -> bool:
        """Take the replies to reads that have arrived; return False if an order came first.

        wait  sleep until there is a reply, a frame that is held back may be tried again, or a link
              may be read again
        """
        pending = [reads for reads in self._reads.values() if reads.pending]
        if not pending and not wait:
            return True
        held_back = self._runner.held_back
        links = {reads.link.fileno(): reads.link for reads in pending}
        while True:
            arrived = [reads for reads in pending if reads.link.has_reply()]
            if arrived:
                break
            timeout: float | None = 0.0
            if wait:
                timeout = self._patience_s(bool(pending))
            ready = readable([self._line.wake, *links, *held_back.descriptors()], timeout)
            if self._line.wake in ready:
                os.eventfd_read(self._line.wake)
                if self._has_order():
                    return False
            for descriptor in links.keys() & ready:
                links[descriptor].fill()
            if held_back.take_answers(ready):
                return True
            if not ready:
                break
        if not pending:
            arrived = list(self._reads.values())
        for reads in arrived:
            if not reads.pending or not self._take(reads):
                self._check_tokens(reads)
        return True

    def _patience_s(self, reading: bool) -> float | None:
        """Return the seconds to sleep at most; None: until a descriptor is readable."""
        now = time.monotonic()
        held_back = self._runner.held_back
        dues = [held_back.retry_in(), *(reads.rests_s(now) for reads in self._reads.values())]
        known = [due for due in dues if due is not None]
        if not reading and (not known or held_back.lacks_pixels()):
            known.append(REST_S)
        return min(known, default=None)

    def _take(self, reads: _Reads) -> bool:
        """Put the entries of a reply into the inboxes; return whether there were any."""
        reply = reads.take()
        for stream, entries in reply or ():
            for source, stage in reads.readers.get(stream, ()):
                if source in self._runner.stale:
                    continue
                read_to = self._read_to[source, stage.spec.name]
                newest = self._runner.receive(stage, source, entries, read_to)
                self._read_to[source, stage.spec.name] = newest
        return reply is not None
