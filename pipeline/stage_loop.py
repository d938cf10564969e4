"""The loop of a worker that reads streams: read, run, commit; commit and next read in one write."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from typing import Any

from pipeline.control import ControlLine, Drain, Stop
from pipeline.errors import Fenced
from pipeline.hop import hop_command, read_answers
from pipeline.hosted_stage import HostedStage
from pipeline.records import Position
from pipeline.runner import Moves, Runner, hops, input_stream
from pipeline.wire import Command, Link

READ_COUNT = "16"
_BLOCK = ("BLOCK", "5000")
_BLOCK_SHORTLY = ("BLOCK", "50")  # a frame's pixels are on their way: look again soon


class StageLoop:
    """Serves the stages of one worker. One thread."""

    def __init__(self, runner: Runner, line: ControlLine) -> None:
        self._runner = runner
        self._line = line
        names = {stage.spec.name for stage in runner.hosted}
        self._heads = [stage for stage in runner.hosted if stage.spec.input not in names]
        self._read_to: dict[tuple[str, str], Position] = {}
        self._readers: dict[bytes, list[tuple[str, HostedStage]]] = {}
        self._did_something = False

    def connected(self) -> bool:
        """Whether this connection has done anything yet."""
        return self._did_something

    def serve(self, link: Link) -> None:
        """Work until ordered to stop. Fenced when no source is left to this worker."""
        self._did_something = False
        for trim in self._runner.trims(all_of_them=True):
            link.call(*trim)
        self._attach(link, list(self._runner.sources))
        while True:
            if not self._runner.sources:
                raise Fenced("another worker has taken all sources over")
            moves = self._runner.step()
            trims = self._runner.trims()
            commands = [hop_command(hops(moves))] if moves else []
            link.send(*commands, *trims, self._read_command())
            if moves:
                self._settle(moves, link.receive())
            for _ in trims:
                link.receive()
            if not self._await_reply(link):
                return
            self._take(link.receive())
            if self._runner.stale:
                self._attach(link, set(self._runner.stale))
            self._did_something = True

    def _attach(self, link: Link, sources: Iterable[str]) -> None:
        sources = list(sources)
        self._runner.attach(link, sources)
        for stage in self._heads:
            for source in sources:
                if source in self._runner.sources:
                    position = stage.standings[source].position
                    self._read_to[source, stage.spec.name] = position
        self._readers = {}
        for stage in self._heads:
            for source in self._runner.sources:
                stream = input_stream(self._runner.spec, stage.spec.name, source).encode()
                self._readers.setdefault(stream, []).append((source, stage))

    def _read_command(self) -> Command:
        block: tuple[str, ...] = ()
        if self._runner.idle():
            block = _BLOCK_SHORTLY if self._runner.lacks_pixels() else _BLOCK
        ids = (
            str(min(self._read_to[source, stage.spec.name] for source, stage in readers))
            for readers in self._readers.values()
        )
        return ("XREAD", "COUNT", READ_COUNT, *block, "STREAMS", *self._readers, *ids)

    def _settle(self, moves: Moves, reply: list[list[Any]]) -> None:
        for (source, theirs), answer in zip(moves.items(), read_answers(reply), strict=True):
            self._runner.settle(source, theirs, answer)

    def _await_reply(self, link: Link) -> bool:
        """Wait for the read's reply; False when an order to end came first."""
        wake, reply = self._line.wake, link.fileno()
        while not link.here():
            ready, _, _ = select.select([reply, wake], [], [])
            if wake in ready:
                os.eventfd_read(wake)
                if isinstance(self._line.order(), Stop | Drain):
                    return False
            if reply in ready:
                link.fill()
        return True

    def _take(self, reply: list[list[Any]] | None) -> None:
        for stream, entries in reply or ():
            for source, stage in self._readers[stream]:
                if source in self._runner.stale or source not in self._runner.sources:
                    continue
                read_to = self._read_to[source, stage.spec.name]
                fresh = self._runner.receive(stage, source, entries, read_to)
                self._read_to[source, stage.spec.name] = fresh
