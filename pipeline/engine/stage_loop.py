"""The loop of a worker that does not decode: read, run, commit; commit and next read in one write.

Redis and Valkey answer the commands of a connection in their order. That is what makes the one
write cheap (the hop's reply comes first, the read's whenever there is something), and what all
care here is about: a read that may wait for seconds must not stand before a commit, and no reply
may be taken for that of another command.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from framegate.pipeline.contracts.errors import Fenced
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.engine.control import ControlLine
from framegate.pipeline.engine.held_back import REST_S
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.runner import PendingCommits, Runner, hops, input_stream
from framegate.pipeline.store.connection import Command, Link, readable
from framegate.pipeline.store.links import Links

READ_COUNT = "64"
PLENTY = 16
CHECK_S = 4.0
_BLOCK = ("BLOCK", "5000")
_BLOCK_SHORTLY = ("BLOCK", "50")  # a frame's pixels are on their way: look again soon
_REST_S = 20e-6  # a stream, between two reads: to ask for many streams costs what it costs,
_LEAST_REST_S = 1e-3  # however few have something, so that they are asked for together


class StageLoop:
    """Serves the stages of one worker, on one set of connections after the other. One thread."""

    def __init__(self, runner: Runner, line: ControlLine) -> None:
        self._runner, self._line = runner, line
        self._session: StageSession | None = None  # the last one

    def connected(self) -> bool:
        """Return whether the last session came so far as to do anything."""
        return self._session is not None and self._session.turns > 0

    def serve(self, links: Links) -> None:
        """Work until ordered to stop, or told of other sources: those are served on connections
        of their own. Fenced when all sources were taken from this worker.

        A connection that breaks ends the session, and all of it that is not in the store is
        forgotten. Whether the last commit was taken, its reply lost, need not be known: the next
        session asks the store where the stages stand. If the commit was taken they stand after it;
        if not, the same frames are read and run again from the same state, to the same bytes.
        """
        self._session = None
        self._session = StageSession(self._runner, self._line, links)
        self._session.serve()


@dataclass(frozen=True, slots=True)
class _ReadUnderWay:
    """A read was sent, and its reply was not taken yet.

    blocks  the server keeps it until there is something to read, or the time of BLOCK is over
    """

    blocks: bool


@dataclass(frozen=True, slots=True)
class _LinkFree:
    """No read is under way; the next is sent `from_mono` (monotonic seconds) at the earliest."""

    from_mono: float = 0.0


class _Reads:
    """What is read over one link: streams of all sources, or in a cluster of one.

    readers  who reads which stream
    state    decides what may be sent over the link: it is either read from, or free
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sources: list[str] = []
        self.readers: dict[bytes, list[tuple[str, HostedStage]]] = {}
        self.state: _ReadUnderWay | _LinkFree = _LinkFree()
        self.checked_mono = 0.0

    @property
    def pending(self) -> bool:
        """Whether a reply to a read is still to come."""
        return isinstance(self.state, _ReadUnderWay)

    def rests_s(self, now: float) -> float | None:
        """Seconds for which nothing is read; None where a read is under way, or nothing rests."""
        if isinstance(self.state, _ReadUnderWay) or not self.state.from_mono:
            return None
        return max(0.0, self.state.from_mono - now)

    def send(self, commands: list[Command], read: Command | None) -> None:
        """Write commands, and the next read after them, in one go; the link must be free."""
        assert not self.pending
        if read is not None:
            self.link.send(*commands, read)
            self.state = _ReadUnderWay(blocks="BLOCK" in read)
        elif commands:
            self.link.send(*commands)

    def take(self) -> list[list[Any]] | None:
        """Take the reply to the read, and wait for it; None if nothing was there to be read."""
        reply: list[list[Any]] | None = self.link.receive()
        rest_s = _REST_S * len(self.readers)
        self.state = _LinkFree(time.monotonic() + rest_s if rest_s >= _LEAST_REST_S else 0.0)
        return reply


class StageSession:
    """The loop on one set of connections. One thread.

    turns  how often it went round: what it did is then in the store
    """

    def __init__(self, runner: Runner, line: ControlLine, links: Links) -> None:
        self.turns = 0
        self._runner, self._line, self._links = runner, line, links
        self._sources = line.sources
        names = {stage.spec.name for stage in runner.hosted}
        self._heads = [stage for stage in runner.hosted if stage.spec.input not in names]
        self._read_to: dict[tuple[str, str], Position] = {}
        self._reads: dict[Link, _Reads] = {}

    def serve(self) -> None:
        """Attach, then go round; see StageLoop.serve."""
        runner = self._runner
        if self._sources is not None:
            runner.take_sources(self._sources)
        runner.let_all_be_trimmed()
        for source, trim in runner.trims(runner.sources):
            self._links.of(source).call(*trim)
        self._attach(list(runner.sources))
        while not self._has_word():
            if not runner.sources:
                self._await_sources()
                return
            sent = self._commit_and_read(runner.step())
            if not self._hear(wait=sent or runner.idle()):
                return
            self._attach_stale()
            self.turns += 1

    def _has_word(self) -> bool:
        """Return whether there is an order, or another set of sources."""
        return self._line.ordered is not None or self._line.sources is not self._sources

    def _await_sources(self) -> None:
        """Sleep until there is a word: there is nothing to do. Fenced if there was something."""
        if self._runner.fenced:
            raise Fenced("another worker has taken all sources over")
        while not self._has_word():
            readable([self._line.wake])
            os.eventfd_read(self._line.wake)

    # -- standing with the store

    def _attach(self, sources: Iterable[str]) -> None:
        sources = list(sources)
        self._runner.attach(self._links, sources)
        for stage in self._heads:
            for source in sources:
                if source in self._runner.sources:
                    position = stage.checkpoints[source].position
                    self._read_to[source, stage.spec.name] = position
        self._list_readers()

    def _attach_stale(self) -> None:
        """Begin anew with sources whose position in the store is not the one known here.

        Attaching takes the reply that comes next on the source's link, so it waits until the link
        is free. A read that is still under way began after the old position: what it brings of a
        stale source is not handed on (`_take`), as frames before it may be missing.
        """
        if self._runner.stale:
            busy = {s for reads in self._reads.values() if reads.pending for s in reads.sources}
            if free := self._runner.stale - busy:
                self._attach(free)

    def _list_readers(self) -> None:
        """Note who reads which stream over which link, of the sources that are still served."""
        before, self._reads = self._reads, {}
        for source in self._runner.sources:
            link = self._links.of(source)
            if link not in self._reads:
                reads = self._reads[link] = before.get(link) or _Reads(link)
                reads.sources, reads.readers = [], {}
            reads = self._reads[link]
            reads.sources.append(source)
            for stage in self._heads:
                stream = input_stream(self._runner.spec, stage.spec.name, source).encode()
                reads.readers.setdefault(stream, []).append((source, stage))

    def _see_whether_replaced(self, reads: _Reads) -> None:
        """Look at the tokens now and then: a worker without work has no commit that would tell it
        that another took its place, and is to end like one with work.
        """
        now = time.monotonic()
        if now - reads.checked_mono > CHECK_S:
            reads.checked_mono = now
            self._runner.check_tokens(reads.link, reads.sources)
            self._list_readers()

    # -- committing and reading

    def _commit_and_read(self, pending: PendingCommits) -> bool:
        """Send commits and next reads, settle the commits; return whether a read was sent.

        Both leave in one write: at a live pace a stage wakes once a frame, and a second write would
        be a second system call here and a second wake-up of the server for each.
        """
        free = [reads.sources for reads in self._reads.values() if not reads.pending]
        # Trimming can wait until a link is free: it is not worth a spare one.
        trims = self._runner.trims(itertools.chain.from_iterable(free))
        parts = self._links.parts(hops(pending), trims)
        sent, now = False, time.monotonic()
        for link, reads in self._reads.items():
            part = parts.get(link)
            commands = [] if part is None else part.commands()
            if isinstance(reads.state, _LinkFree):
                read = None
                if now >= reads.state.from_mono:
                    reads.state = _LinkFree()  # it rests no longer, whether or not there is room
                    read = self._next_read(reads)
                reads.send(commands, read)
                sent |= read is not None
            elif part is not None and reads.state.blocks:
                # A commit after this read would be done when the read ends: after seconds, maybe.
                part.link = self._links.spare(link)
                part.link.send(*commands)
            elif part is not None:
                self._take(reads)  # its reply is on the way, and comes before the commit's
                reads.send(commands, None)
        served = len(self._runner.sources)
        for part in parts.values():
            for source, answer in part.receive():
                self._runner.settle(source, pending[source], answer)
        if len(self._runner.sources) < served:
            self._list_readers()
        return sent

    def _next_read(self, reads: _Reads) -> Command | None:
        """The read of streams whose readers have not got plenty waiting; None if all have."""
        streams = {
            stream: min(self._read_to[source, stage.spec.name] for source, stage in readers)
            for stream, readers in reads.readers.items()
            if any(self._has_room(source, stage) for source, stage in readers)
        }
        if not streams:
            return None
        block: tuple[str, ...] = ()
        if self._runner.idle():
            block = _BLOCK_SHORTLY if self._runner.held_back.lacks_pixels() else _BLOCK
        ids = map(str, streams.values())
        return ("XREAD", "COUNT", READ_COUNT, *block, "STREAMS", *streams, *ids)

    def _has_room(self, source: str, stage: HostedStage) -> bool:
        return self._runner.inboxes[stage.spec.name].count(source) < PLENTY

    def _hear(self, wait: bool) -> bool:
        """Take the replies to reads that are here. With `wait`, sleep until there is one, or what
        is held back can be tried again, or a link that rested may be read.

        False when an order or other sources came first.
        """
        pending = [reads for reads in self._reads.values() if reads.pending]
        if not pending and not wait:
            return True
        held_back = self._runner.held_back
        links = {reads.link.fileno(): reads.link for reads in pending}
        while not (here := [reads for reads in pending if reads.link.here()]):
            timeout = self._patience_s(bool(pending)) if wait else 0.0
            ready = readable([self._line.wake, *links, *held_back.answers()], timeout)
            if self._line.wake in ready:
                os.eventfd_read(self._line.wake)
                if self._has_word():
                    return False
            for descriptor in links.keys() & ready:
                links[descriptor].fill()
            if held_back.hear(ready):
                return True
            if not ready:
                break
        if not pending:
            here = list(self._reads.values())
        for reads in here:
            if not reads.pending or not self._take(reads):
                self._see_whether_replaced(reads)
        return True

    def _patience_s(self, reading: bool) -> float | None:
        """How long to sleep at most; None: until a descriptor says something."""
        due = self._runner.held_back.retry_in()
        if due is None and not reading:
            due = REST_S
        now = time.monotonic()
        dues = (due, *(reads.rests_s(now) for reads in self._reads.values()))
        return min((due for due in dues if due is not None), default=None)

    def _take(self, reads: _Reads) -> bool:
        """Take the reply to a read and hand on what came; return whether anything did."""
        reply = reads.take()
        for stream, entries in reply or ():
            for source, stage in reads.readers.get(stream, ()):
                if source in self._runner.stale:
                    continue
                read_to = self._read_to[source, stage.spec.name]
                newest = self._runner.receive(stage, source, entries, read_to)
                self._read_to[source, stage.spec.name] = newest
        return reply is not None
