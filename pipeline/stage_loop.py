"""The loop of a worker that reads streams: read, run, commit; commit and next read in one write."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from typing import Any

from pipeline.control import ControlLine
from pipeline.errors import Fenced
from pipeline.hop import hop_command, read_answers
from pipeline.hosted_stage import HostedStage
from pipeline.records import Position
from pipeline.runner import REST_S, Moves, Runner, hops, input_stream
from pipeline.wire import Command, Link

READ_COUNT = "64"
PLENTY = 16
CHECK_S = 4.0
_BLOCK = ("BLOCK", "5000")
_BLOCK_SHORTLY = ("BLOCK", "50")  # a frame's pixels are on their way: look again soon


class StageLoop:
    """Serves the stages of one worker. One thread."""

    def __init__(self, runner: Runner, line: ControlLine) -> None:
        self._runner = runner
        self._line = line
        names = {stage.spec.name for stage in runner.hosted}
        self._heads = [stage for stage in runner.hosted if stage.spec.input not in names]
        self._sources = line.sources
        self._read_to: dict[tuple[str, str], Position] = {}
        self._readers: dict[bytes, list[tuple[str, HostedStage]]] = {}
        self._did_something = False
        self._checked_mono = 0.0

    def connected(self) -> bool:
        """Whether this connection has done anything yet."""
        return self._did_something

    def serve(self, link: Link) -> None:
        """Work until ordered to stop, or told of other sources: those are served on a connection
        of their own. Fenced when all sources were taken from this worker.
        """
        self._did_something = False
        self._take_sources()
        for trim in self._runner.trims(all_of_them=True):
            link.call(*trim)
        self._attach(link, list(self._runner.sources))
        while not self._has_word():
            if not self._runner.sources:
                self._await_sources()
                return
            moves = self._runner.step()
            trims = self._runner.trims()
            reads = self._read_commands()
            commands = [hop_command(hops(moves))] if moves else []
            link.send(*commands, *trims, *reads)
            if moves:
                self._settle(moves, link.receive())
            for _ in trims:
                link.receive()
            if reads:
                if not self._await_reply(link):
                    return
                reply = link.receive()
                self._take(reply)
                if reply is None:
                    self._see_whether_replaced(link)
            elif self._runner.idle():
                if select.select([self._line.wake], [], [], REST_S)[0]:
                    os.eventfd_read(self._line.wake)
                self._see_whether_replaced(link)
            if self._runner.stale:
                self._attach(link, set(self._runner.stale))
            self._did_something = True

    def _take_sources(self) -> None:
        self._sources = self._line.sources
        if self._sources is not None:
            self._runner.take_sources(self._sources)
            self._read_to.clear()

    def _has_word(self) -> bool:
        """Whether there is an order, or another set of sources."""
        return self._line.ordered is not None or self._line.sources is not self._sources

    def _await_sources(self) -> None:
        """Nothing to do before there is a word. Fenced if there was something."""
        if self._runner.fenced:
            raise Fenced("another worker has taken all sources over")
        while not self._has_word():
            select.select([self._line.wake], [], [])
            os.eventfd_read(self._line.wake)

    def _attach(self, link: Link, sources: Iterable[str]) -> None:
        sources = list(sources)
        self._runner.attach(link, sources)
        for stage in self._heads:
            for source in sources:
                if source in self._runner.sources:
                    position = stage.standings[source].position
                    self._read_to[source, stage.spec.name] = position
        self._list_readers()

    def _list_readers(self) -> None:
        """Who reads which stream, of the sources that are still this worker's."""
        self._readers = {}
        for stage in self._heads:
            for source in self._runner.sources:
                stream = input_stream(self._runner.spec, stage.spec.name, source).encode()
                self._readers.setdefault(stream, []).append((source, stage))

    def _read_commands(self) -> list[Command]:
        """The next read, of streams whose readers have not got plenty waiting; none if all have."""
        streams = {
            stream: min(self._read_to[source, stage.spec.name] for source, stage in readers)
            for stream, readers in self._readers.items()
            if any(self._has_room(source, stage) for source, stage in readers)
        }
        if not streams:
            return []
        block: tuple[str, ...] = ()
        if self._runner.idle():
            block = _BLOCK_SHORTLY if self._runner.lacks_pixels() else _BLOCK
        ids = map(str, streams.values())
        return [("XREAD", "COUNT", READ_COUNT, *block, "STREAMS", *streams, *ids)]

    def _see_whether_replaced(self, link: Link) -> None:
        """A worker without work learns that another took its place, and ends like one with work."""
        now = time.monotonic()
        if now - self._checked_mono > CHECK_S:
            self._checked_mono = now
            self._runner.check_tokens(link)
            self._list_readers()

    def _has_room(self, source: str, stage: HostedStage) -> bool:
        return self._runner.inboxes[stage.spec.name].count(source) < PLENTY

    def _settle(self, moves: Moves, reply: list[list[Any]]) -> None:
        before = len(self._runner.sources)
        for (source, theirs), answer in zip(moves.items(), read_answers(reply), strict=True):
            self._runner.settle(source, theirs, answer)
        if len(self._runner.sources) < before:
            self._list_readers()

    def _await_reply(self, link: Link) -> bool:
        """Wait for the read's reply; False when an order or other sources came first."""
        wake, reply = self._line.wake, link.fileno()
        while not link.here():
            ready, _, _ = select.select([reply, wake], [], [])
            if wake in ready:
                os.eventfd_read(wake)
                if self._has_word():
                    return False
            if reply in ready:
                link.fill()
        return True

    def _take(self, reply: list[list[Any]] | None) -> None:
        for stream, entries in reply or ():
            for source, stage in self._readers.get(stream, ()):
                if source in self._runner.stale:
                    continue
                read_to = self._read_to[source, stage.spec.name]
                fresh = self._runner.receive(stage, source, entries, read_to)
                self._read_to[source, stage.spec.name] = fresh
