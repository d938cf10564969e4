"""The loop of a worker: stay connected; read, run, commit; commit and next read in one write."""

from __future__ import annotations

import itertools
import logging
import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from framegate.pipeline.engine.control import ControlLine, Stop
from framegate.pipeline.engine.held_back import REST_S
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.runner import Moves, Runner, hops, input_stream
from framegate.pipeline.errors import Fenced, StoreBusy, StoreLost
from framegate.pipeline.records import Position
from framegate.pipeline.retry import Backoff
from framegate.pipeline.store.connection import Command, Link, readable
from framegate.pipeline.store.links import Links

READ_COUNT = "64"
PLENTY = 16
CHECK_S = 4.0
_BLOCK = ("BLOCK", "5000")
_REST_S = 20e-6  # a stream, between two looks: to ask for many streams costs what it costs,
_LEAST_REST_S = 1e-3  # however few have something, so that they are asked for together
_BLOCK_SHORTLY = ("BLOCK", "50")  # a frame's pixels are on their way: look again soon


@dataclass
class Reading:
    """What is read over one link: all sources, or in a cluster one.

    readers   who reads which stream
    under_way whether a read was sent whose reply was not taken
    sleeps    whether that reply comes only once there is something to read
    rests     monotonic seconds until which nothing is read
    """

    link: Link
    sources: list[str] = field(default_factory=list)
    readers: dict[bytes, list[tuple[str, HostedStage]]] = field(default_factory=dict)
    under_way: bool = False
    sleeps: bool = False
    checked_mono: float = 0.0
    rests: float = 0.0


class StageLoop:
    """Serves the stages of one worker. One thread."""

    def __init__(self, runner: Runner, line: ControlLine) -> None:
        self._runner = runner
        self._line = line
        names = {stage.spec.name for stage in runner.hosted}
        self._heads = [stage for stage in runner.hosted if stage.spec.input not in names]
        self._sources = line.sources
        self._read_to: dict[tuple[str, str], Position] = {}
        self._readings: dict[Link, Reading] = {}
        self._did_something = False
        self._links: Links

    def connected(self) -> bool:
        """Whether anything was done since it connected."""
        return self._did_something

    def serve(self, links: Links) -> None:
        """Work until ordered to stop, or told of other sources: those are served on connections
        of their own. Fenced when all sources were taken from this worker.
        """
        self._links = links
        self._readings = {}
        self._did_something = False
        self._take_sources()
        self._runner.let_all_be_trimmed()
        for source, trim in self._runner.trims(self._runner.sources):
            links.of(source).call(*trim)
        self._attach(list(self._runner.sources))
        while not self._has_word():
            if not self._runner.sources:
                self._await_sources()
                return
            sent = self._commit_and_read(self._runner.step())
            if not self._hear(wait=sent or self._runner.idle()):
                return
            if self._runner.stale:
                links.drop(self._runner.stale)  # with what is read of them
                self._attach(set(self._runner.stale))
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
            readable([self._line.wake])
            os.eventfd_read(self._line.wake)

    def _attach(self, sources: Iterable[str]) -> None:
        sources = list(sources)
        self._runner.attach(self._links, sources)
        for stage in self._heads:
            for source in sources:
                if source in self._runner.sources:
                    position = stage.standings[source].position
                    self._read_to[source, stage.spec.name] = position
        self._list_readers()

    def _list_readers(self) -> None:
        """Who reads which stream over which link, of the sources that are still this worker's."""
        before, self._readings = self._readings, {}
        for source in self._runner.sources:
            link = self._links.of(source)
            if link not in self._readings:
                reading = self._readings[link] = before.get(link) or Reading(link)
                reading.sources, reading.readers = [], {}
            reading = self._readings[link]
            reading.sources.append(source)
            for stage in self._heads:
                stream = input_stream(self._runner.spec, stage.spec.name, source).encode()
                reading.readers.setdefault(stream, []).append((source, stage))

    def _commit_and_read(self, moves: Moves) -> bool:
        """Commit and next read leave in one write; whether there was a read."""
        free = [r.sources for r in self._readings.values() if not r.under_way]
        trims = self._runner.trims(itertools.chain.from_iterable(free))
        parts = self._links.parts(hops(moves), trims)
        sent, now = False, time.monotonic()
        for link, reading in self._readings.items():
            commands = parts[link].commands() if link in parts else []
            read: list[Command] = []
            if not reading.under_way and now >= reading.rests:
                reading.rests = 0.0
                read = self._read_commands(reading)
            if reading.under_way and commands and not reading.sleeps:
                self._take(reading)  # its reply comes first
            if reading.under_way and commands:
                parts[link].link = self._links.spare(link)
            if commands or read:
                (parts[link].link if commands else link).send(*commands, *read)
            reading.under_way |= bool(read)
            sent |= bool(read)
        before = len(self._runner.sources)
        for part in parts.values():
            for source, answer in part.receive():
                self._runner.settle(source, moves[source], answer)
        if len(self._runner.sources) < before:
            self._list_readers()
        return sent

    def _read_commands(self, reading: Reading) -> list[Command]:
        """The next read, of streams whose readers have not got plenty waiting; none if all have."""
        streams = {
            stream: min(self._read_to[source, stage.spec.name] for source, stage in readers)
            for stream, readers in reading.readers.items()
            if any(self._has_room(source, stage) for source, stage in readers)
        }
        if not streams:
            return []
        block: tuple[str, ...] = ()
        if self._runner.idle():
            block = _BLOCK_SHORTLY if self._runner.held_back.lacks_pixels() else _BLOCK
        reading.sleeps = bool(block)
        ids = map(str, streams.values())
        return [("XREAD", "COUNT", READ_COUNT, *block, "STREAMS", *streams, *ids)]

    def _has_room(self, source: str, stage: HostedStage) -> bool:
        return self._runner.inboxes[stage.spec.name].count(source) < PLENTY

    def _hear(self, wait: bool) -> bool:
        """Take the replies to reads that are here, one at least if it is to wait for it.

        False when an order or other sources came first.
        """
        under_way = [reading for reading in self._readings.values() if reading.under_way]
        if not under_way and not wait:
            return True
        held_back = self._runner.held_back
        while not (here := [reading for reading in under_way if reading.link.here()]):
            due = held_back.due_in()
            timeout = (REST_S if due is None and not under_way else due) if wait else 0.0
            if timeout != 0.0 and (rest := self._rest_s()) is not None:
                timeout = rest if timeout is None else min(rest, timeout)
            links = {reading.link.fileno(): reading.link for reading in under_way}
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
        for reading in here or (() if under_way else self._readings.values()):
            if not reading.under_way or not self._take(reading):
                self._see_whether_replaced(reading)
        return True

    def _rest_s(self) -> float | None:
        """Seconds until what rests is read again; None if nothing does."""
        rests = [r.rests for r in self._readings.values() if r.rests and not r.under_way]
        return max(0.0, min(rests) - time.monotonic()) if rests else None

    def _see_whether_replaced(self, reading: Reading) -> None:
        """A worker without work learns that another took its place, and ends like one with work."""
        now = time.monotonic()
        if now - reading.checked_mono > CHECK_S:
            reading.checked_mono = now
            self._runner.check_tokens(reading.link, reading.sources)
            self._list_readers()

    def _take(self, reading: Reading) -> bool:
        """Take the reply to a read; whether there was anything."""
        reply: list[list[Any]] | None = reading.link.receive()
        reading.under_way = False
        rest = _REST_S * len(reading.readers)
        reading.rests = time.monotonic() + rest if rest >= _LEAST_REST_S else 0.0
        for stream, entries in reply or ():
            for source, stage in reading.readers.get(stream, ()):
                if source in self._runner.stale:
                    continue
                read_to = self._read_to[source, stage.spec.name]
                fresh = self._runner.receive(stage, source, entries, read_to)
                self._read_to[source, stage.spec.name] = fresh
        return reply is not None


# -- What both worker loops share: stay connected, obey orders, back off while the store is away.


log = logging.getLogger(__name__)

SIGN_S = 1.0  # between signs of life; half of the least hung_s


class Served(Protocol):
    """A loop's work while connected; returns to end, or to begin again on new connections."""

    def serve(self, links: Links) -> None: ...
    def connected(self) -> bool:
        """Whether anything was done since it connected."""
        ...


def run_connected(url: str, work: Served, line: ControlLine) -> None:
    """Serve until the work ends; on every (re)connect it starts from what the store says."""
    failures = 0
    while True:
        links = None
        try:
            links = Links(url)
            work.serve(links)
            if line.ordered is not None:
                return
            failures = 0
        except (StoreLost, StoreBusy) as error:
            failures = 1 if links is not None and work.connected() else failures + 1
            delay = Backoff().delay_s(failures, random.random())
            level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else logging.DEBUG
            log.log(level, "%s; trying again in %.2f s", error, delay)
            if stopped_within(line, delay):
                return
        finally:
            if links is not None:
                links.close()


def stopped_within(line: ControlLine, seconds: float) -> bool:
    """Wait; whether an order to stop came meanwhile. A drain needs the store: it waits as well.

    A store that answers and takes no writes may stay so for hours: who waits tells that it lives.
    """
    until = time.monotonic() + seconds
    while not isinstance(line.ordered, Stop) and (left := until - time.monotonic()) > 0:
        line.waits += 1
        if readable([line.wake], min(left, SIGN_S)):
            os.eventfd_read(line.wake)
    return isinstance(line.ordered, Stop)
