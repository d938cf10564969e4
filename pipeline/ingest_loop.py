"""The loop of a worker that decodes: gather what is due, run the hosted stages, commit, wait."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pipeline import keys, records
from pipeline.control import ControlLine, Drain, Finished, InHand, Stop
from pipeline.decoder import DecoderThread, InFlight, ResumePoint
from pipeline.epoch import EpochRequest
from pipeline.errors import Fenced, SourceFault
from pipeline.feed import DecodeState, Feed
from pipeline.hop import (
    Answer,
    Commit,
    SourceHop,
    Verdict,
    attach_command,
    hop_command,
    read_answers,
    read_attached,
)
from pipeline.inbox import Arrival
from pipeline.records import START, Position, Record
from pipeline.room import Room
from pipeline.runner import Moves, Runner, read_entry
from pipeline.shared_views import SharedViews
from pipeline.source import Source
from pipeline.spec import SourceSpec
from pipeline.wire import Link

log = logging.getLogger(__name__)

OpenSource = Callable[[str], Source]


class IngestLoop:
    """Serves decode for its sources, and the stages that this process hosts behind it."""

    def __init__(
        self, runner: Runner, line: ControlLine, shared: SharedViews, open_source: OpenSource
    ) -> None:
        self._runner = runner
        self._shared = shared
        self._spec = runner.spec
        self._line = line
        self._open_source = open_source
        self._feeds = {s.name: Feed(s, self._spec.run) for s in self._spec.sources}
        self._rooms: dict[str, Room] = {}
        self._epochs: dict[str, EpochRequest] = {}
        self._turn_lock = threading.Lock()
        self._draining = False
        self._did_something = False

    def connected(self) -> bool:
        """Whether this connection has done anything yet."""
        return self._did_something

    def progress(self) -> int:
        """What was done so far; grows while files are decoded again up to their position, too."""
        threads = [feed.thread for feed in self._feeds.values() if feed.thread]
        return self._runner.done + sum(thread.done for thread in threads)

    def serve(self, link: Link) -> None:
        """Work until ordered to stop, or drained. Fenced when no source is left."""
        self._did_something = False
        for trim in self._runner.trims(all_of_them=True):
            link.call(*trim)
        try:
            self._attach(link, list(self._feeds))
            while not self._ended():
                if not self._feeds:
                    raise Fenced("another worker has taken all sources over")
                self._turn(link)
                self._did_something = True
        finally:
            errands: list[Room | EpochRequest] = [*self._rooms.values(), *self._epochs.values()]
            for errand in errands:
                errand.close()
            self._rooms.clear()
            self._epochs.clear()

    def _turn(self, link: Link) -> None:
        now, wall = time.monotonic(), time.time()
        for source, feed in self._feeds.items():
            if not self._draining:
                self._hand_on(source, feed.gather(now, wall))
        self._commit(link, self._runner.step())
        if self._runner.stale:
            self._attach(link, set(self._runner.stale))
        if self._runner.idle():
            self._wait()

    def _hand_on(self, source: str, arrivals: Iterable[Arrival]) -> None:
        for stage in self._runner.hosted:
            if stage.spec.input == "decode":
                self._runner.inboxes[stage.spec.name].add(source, arrivals)

    # -- standing with the store

    def _attach(self, link: Link, sources: Iterable[str]) -> None:
        self._runner.attach(link, sources)
        for source in list(sources):
            attached = read_attached(link.call(*attach_command(source, "decode", self._spec.run)))
            if isinstance(attached, Verdict):
                self._runner.refused(source, attached)
                self._drop(source)
                continue
            feed = self._feeds[source]
            if feed.attach(attached):
                self._hand_on(source, feed.held())
                continue
            state = DecodeState(self._spec.run)
            if attached.state:
                stored = records.decode(attached.state, DecodeState)
                state = stored if stored.run == self._spec.run else state
            self._restart(link, feed, attached.position, state)

    def _restart(self, link: Link, feed: Feed, position: Position, state: DecodeState) -> None:
        name = feed.spec.name
        self._end_thread(feed)
        in_flight = self._in_flight(link, feed)
        if state.done:
            self._line.say(Finished(name, "decode", state.fault))
            if not in_flight:
                feed.restart(position, state, None)
                return
        thread = DecoderThread(
            name=name,
            open_source=lambda: self._open(feed.spec),
            frame_store=lambda form: self._shared.frame_store(name, form),
            start=ResumePoint(position, state.number, state.open, state.done, in_flight),
            credit_limit=feed.spec.credit,
            wake=self._line.wake,
            announce=lambda position: self._in_turn(name, position),
            careful_until=self._spec.careful.get(name, START),
        )
        feed.restart(position, state, thread)
        thread.start()

    def _in_flight(self, link: Link, feed: Feed) -> tuple[InFlight, ...]:
        """Committed frames of this run that some reliable reader has yet to read."""
        source = feed.spec.name
        read = self._room(source).least()
        reply = link.call("XRANGE", keys.out(source, "decode"), f"({read}", "+")
        arrivals = [read_entry(entry, self._spec.stage("decode")) for entry in reply]
        return tuple(
            InFlight(a.position, a.record.number, a.record.form)
            for a in arrivals
            if isinstance(a.record, Record) and a.position.epoch > feed.spec.past
        )

    def _open(self, spec: SourceSpec) -> Source:
        if spec.fault is not None:
            raise SourceFault(spec.fault, "died")
        return self._open_source(spec.url)

    @contextmanager
    def _in_turn(self, source: str, position: Position) -> Iterator[None]:
        """Careful sources decode in turn and say so before: a crash then has one suspect."""
        with self._turn_lock:
            self._line.say(InHand(source, "decode", position))
            try:
                yield
            finally:
                self._line.say(InHand(source, "decode", None))

    def _drop(self, source: str) -> None:
        feed = self._feeds.pop(source, None)
        if feed is not None:
            self._end_thread(feed)

    def _end_thread(self, feed: Feed) -> None:
        if feed.thread is not None:
            feed.thread.stop()
            feed.thread.join()

    def _ask_epoch(self, feed: Feed) -> None:
        source = feed.spec.name
        if source not in self._epochs:
            self._epochs[source] = EpochRequest(self._spec.store, source, feed.token)

    def _take_epoch(self, source: str) -> None:
        answer = self._epochs[source].answer()
        if answer is None:
            return
        self._epochs.pop(source).close()
        if isinstance(answer, Verdict):
            self._runner.stale.add(source)
        else:
            self._hand_on(source, self._feeds[source].begin_epoch(answer))

    # -- committing

    def _commit(self, link: Link, moves: Moves) -> None:
        commits = {source: feed.commit() for source, feed in self._feeds.items()}
        hops = []
        for source, own in commits.items():
            theirs = [move.commit for _, move in moves.get(source, [])]
            if own or theirs:
                hops.append(SourceHop(source, (*([own] if own else []), *theirs)))
        if not hops:
            return
        trims = self._runner.trims()
        link.send(hop_command(hops), *trims)
        answers = read_answers(link.receive())
        for _ in trims:
            link.receive()
        for hop, answer in zip(hops, answers, strict=True):
            self._settle(hop.source, moves, commits[hop.source], answer)

    def _settle(self, source: str, moves: Moves, decoded: Commit | None, answer: Answer) -> None:
        if not self._runner.settle(source, moves.get(source, []), answer):
            if answer.verdict is Verdict.FENCED:
                self._drop(source)
            return
        if decoded is not None:
            self._runner.wrote(source, "decode", len(decoded.entries))
            end = self._feeds[source].confirm()
            if end is not None:
                self._line.say(Finished(source, "decode", end.fault))
                for what, n in end.counts.items():
                    log.warning("source %s: not whole: %s %d", source, what, n)

    # -- waiting

    def _room(self, source: str) -> Room:
        if source not in self._rooms:
            self._rooms[source] = Room(self._spec.store, source, self._spec.last_readers())
        return self._rooms[source]

    def _wait(self) -> None:
        """Sleep until a frame is due, a decoder has something, room comes, or an order."""
        timeout = self._due_s()
        if timeout == 0.0 or self._ended():
            return
        for source, feed in self._feeds.items():
            if feed.needs_epoch() and not self._draining:
                self._ask_epoch(feed)
            elif feed.thread and feed.thread.credit.full and not self._room(source).armed:
                self._room(source).arm(feed.thread.credit.low_water)
        rooms = {room.link.fileno(): s for s, room in self._rooms.items() if room.armed}
        epochs = {request.link.fileno(): s for s, request in self._epochs.items()}
        ready, _, _ = select.select([self._line.wake, *rooms, *epochs], [], [], timeout)
        for descriptor in ready:
            if descriptor == self._line.wake:
                os.eventfd_read(descriptor)
                self._obey()
            elif descriptor in rooms:
                self._released(rooms[descriptor])
            else:
                self._take_epoch(epochs[descriptor])

    def _due_s(self) -> float | None:
        if self._draining:
            return None
        now = time.monotonic()
        feeds = [feed for feed in self._feeds.values() if not feed.needs_epoch()]
        dues = [feed.due_s(now) for feed in feeds]
        return min((due for due in dues if due is not None), default=None)

    def _released(self, source: str) -> None:
        read = self._rooms[source].woken()
        thread = self._feeds[source].thread
        if read is not None and thread is not None:
            thread.release(read)

    def _obey(self) -> None:
        order = self._line.order()
        if isinstance(order, Stop | Drain):
            self._draining = True
            threads = [feed.thread for feed in self._feeds.values() if feed.thread is not None]
            for thread in threads:
                thread.stop()
            for thread in threads:  # nothing would wake this loop when the last one ends
                thread.join()

    def _ended(self) -> bool:
        return self._draining and not any(feed.held() for feed in self._feeds.values())
