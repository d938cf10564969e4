"""The loop of a worker that decodes: start decoders, gather what is due, commit, wait."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush

from framegate.pipeline import keys, records
from framegate.pipeline.engine.control import ControlLine, Finished, InHand, Stop
from framegate.pipeline.engine.held_back import REST_S
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.runner import Moves, Runner, read_entry
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.errors import Fenced, OutOfMeans, SourceFault
from framegate.pipeline.ingest.camera import CameraDecoder
from framegate.pipeline.ingest.decoder import (
    DecoderThread,
    FileDecoder,
    InFlight,
    ResumePoint,
    Surroundings,
)
from framegate.pipeline.ingest.feed import SLACK_S, Feed
from framegate.pipeline.ingest.waits import Answer as ErrandAnswer
from framegate.pipeline.ingest.waits import Errands, slowest
from framegate.pipeline.records import START, DecodeState, Position, Record
from framegate.pipeline.source import Guard, Request, Source
from framegate.pipeline.spec import SourceSpec, WorkerSpec
from framegate.pipeline.store.connection import Link, readable
from framegate.pipeline.store.hop import (
    Commit,
    CommitReply,
    CommitStatus,
    SourceHop,
    attach_command,
    read_attached,
)
from framegate.pipeline.store.links import Links

# -- Starting and ending the decoder threads of an ingest worker.


OpenSource = Callable[[Request, Guard], Source]


class Decoders:
    """Makes the thread that a feed follows, from where the store says that it stands."""

    def __init__(
        self,
        spec: WorkerSpec,
        line: ControlLine,
        shared: SharedViews,
        open_source: OpenSource,
        note: Callable[[str], None],
    ) -> None:
        """note: called by a source's thread when it has something for the loop."""
        self._note = note
        self._spec, self._line, self._shared = spec, line, shared
        self._open_source = open_source
        self.turn = threading.Lock()
        """Held while a careful source decodes: its stages run at other times."""

    def start(self, link: Link, feed: Feed, position: Position, state: DecodeState) -> None:
        """Let the feed go on from there with a new thread; without one if all is done.

        OutOfMeans if there is no thread for it now.
        """
        end_thread(feed)
        in_flight = self._in_flight(link, feed)
        if state.done and (not in_flight or feed.spec.live):
            feed.restart(position, state, None)
            return
        start = ResumePoint(position, state.number, state.open, state.done, in_flight)
        thread = self._thread(feed, start)
        feed.restart(position, state, thread)
        if feed.spec.ending:
            thread.finish()
        try:
            thread.start()
        except RuntimeError as error:
            feed.restart(position, state, None)
            raise OutOfMeans(f"it cannot be decoded now: {error}") from error

    def _thread(self, feed: Feed, start: ResumePoint) -> DecoderThread:
        name, spec = feed.spec.name, feed.spec
        around = Surroundings(
            open_source=lambda guard: self._open(spec, guard),
            frame_store=lambda form: self._shared.frame_store(name, form),
            keep_frames=lambda forms: self._shared.keep_frames(name, forms),
            token=int(feed.token),
            credit_limit=spec.credit,
            wake=self._line.wake,
            announce=lambda position: self._in_turn(name, position),
            careful_until=self._spec.careful.get(name, START),
            note=lambda: self._note(name),
        )
        if spec.live:
            return CameraDecoder(name, around, start, spec.request.stall_s, spec.retry_most_s)
        return FileDecoder(name, around, start)

    def lacks_pixels(self, link: Link, feed: Feed) -> bool:
        """Whether readers of a file still want pixels that its decoder is through with: the store
        was set back.
        """
        thread, spec = feed.thread, feed.spec
        if thread is None or spec.live:
            return False
        return any(
            not (
                thread.will_fill(frame.number)
                or self._shared.holds(spec.name, frame.form, frame.number, frame.position)
            )
            for frame in self._in_flight(link, feed)
        )

    def _in_flight(self, link: Link, feed: Feed) -> tuple[InFlight, ...]:
        """Committed frames of this run that some reliable reader has yet to read."""
        source = feed.spec.name
        _, read = slowest(link, source, self._spec.last_readers())
        reply = link.call("XRANGE", keys.out(source, "decode"), f"({read}", "+")
        arrivals = [read_entry(entry, self._spec.stage("decode")) for entry in reply]
        return tuple(
            InFlight(a.position, a.record.number, a.record.form)
            for a in arrivals
            if isinstance(a.record, Record) and a.position.epoch > feed.spec.past
        )

    def _open(self, spec: SourceSpec, guard: Guard) -> Source:
        if spec.fault is not None:
            raise SourceFault(spec.fault, "died")
        return self._open_source(spec.request, guard)

    @contextmanager
    def _in_turn(self, source: str, position: Position) -> Iterator[None]:
        """Careful sources decode in turn and say so before: a crash then has one suspect."""
        with self.turn:
            self._line.say(InHand(source, "decode", position))
            try:
                yield
            finally:
                self._line.say(InHand(source, "decode", None))


def end_thread(feed: Feed) -> None:
    """End a feed's thread, if it has one, after the frame in hand."""
    if feed.thread is not None:
        feed.thread.abandon()
        feed.thread.join()


log = logging.getLogger(__name__)

LONG_S = 30.0
AGAIN_S = 1.0  # after which a decoder that could not be started is tried again


class IngestLoop:
    """Serves decode for its sources, and the stages that this process hosts behind it.

    A turn looks only at sources that are awake: their thread, the time, the store or the supervisor
    said something. So a turn costs the same whatever number of sources sleeps.
    """

    def __init__(
        self, runner: Runner, line: ControlLine, shared: SharedViews, open_source: OpenSource
    ) -> None:
        self._runner = runner
        self._spec = runner.spec
        self._line = line
        self._noted: deque[str] = deque()  # by decoder threads
        self._decoders = Decoders(runner.spec, line, shared, open_source, self._noted.append)
        self._feeds = {spec.name: self._feed(spec) for spec in self._spec.sources}
        self._awake: set[str] = set()
        self._dues: dict[str, float] = {}  # of sources that sleep until their next frame is due
        self._by_due: list[tuple[float, str]] = []  # a heap; what _dues does not say is void
        self._unstarted: dict[str, float] = {}  # when to try again, by source
        self._sources = line.sources
        self._draining = False
        self._did_something = False
        self._links: Links
        self._errands: Errands

    def connected(self) -> bool:
        """Whether anything was done since it connected."""
        return self._did_something

    def progress(self) -> int:
        """What was done so far; grows while files are decoded again up to their position, too."""
        threads = [feed.thread for feed in list(self._feeds.values()) if feed.thread]
        return self._runner.done + sum(thread.done for thread in threads)

    def waiting(self) -> list[str]:
        """Sources whose next frame is decoded and not yet due at its own pace. Any thread."""
        now = time.monotonic()
        return [source for source, due in list(self._dues.items()) if due > now]

    def serve(self, links: Links) -> None:
        """Work until ordered to stop, or drained. Fenced when no source is left."""
        self._links, self._errands = links, Errands(self._spec, links)
        self._did_something = False
        self._awake.update(self._feeds)
        self._obey()
        self._take_sources()
        self._runner.let_all_be_trimmed()
        for source, trim in self._runner.trims(self._runner.sources):
            links.of(source).call(*trim)
        try:
            self._attach(list(self._feeds))
            while not self._ended():
                if self._line.sources is not self._sources:
                    self._attach(self._take_sources())
                if self._lost_all():
                    raise Fenced("another worker has taken all sources over")
                self._turn()
                self._did_something = True
        finally:
            self._errands.drop_all()

    def _turn(self) -> None:
        now, wall = time.monotonic(), time.time()
        self._wake_up(now)
        for source in self._awake:
            if not self._draining and (feed := self._feeds.get(source)) is not None:
                self._hand_on(source, feed.gather(now, wall))
        self._run_stages()
        if self._runner.stale:
            self._attach(set(self._runner.stale))
        self._let_rest()
        if not self._lost_all():
            self._wait(0.0 if self._awake or not self._runner.idle() else None)

    def _wake_up(self, now: float) -> None:
        """Those that a thread has noted, or whose time has come."""
        while self._noted:
            self._awake.add(self._noted.popleft())
        while self._by_due and self._by_due[0][0] <= now + SLACK_S:
            due, source = heappop(self._by_due)
            if self._dues.get(source) == due:
                del self._dues[source]
                self._awake.add(source)
        if again := [source for source, due in self._unstarted.items() if due <= now]:
            for source in again:
                del self._unstarted[source]
            self._attach(again)

    def _let_rest(self) -> None:
        """Those that have nothing to do now, and what they cannot go on without is asked for."""
        now = time.monotonic()
        for source in list(self._awake):
            feed, due = self._feeds.get(source), None
            if feed is not None and not self._draining:
                self._errands.run_for(feed)
                due = None if feed.needs_epoch() else feed.due_s(now)
            if due == 0.0 or (feed is not None and feed.has_news):
                continue
            self._awake.discard(source)
            self._note_due(source, None if due is None else now + due)

    def _note_due(self, source: str, due: float | None) -> None:
        before = self._dues.get(source)
        if due is None:
            self._dues.pop(source, None)
        elif before is None or abs(due - before) > SLACK_S:
            self._dues[source] = due
            heappush(self._by_due, (due, source))
            wait = due - time.monotonic()
            if before is None and wait >= LONG_S:
                log.info("source %s: its next frame is due in %.0f s", source, wait)

    def _feed(self, spec: SourceSpec) -> Feed:
        return Feed(spec, self._spec.run, self._spec.began_mono)

    def _lost_all(self) -> bool:
        """Whether others took all that this worker had; one that has nothing yet waits."""
        return not self._feeds and bool(self._runner.fenced)

    def _take_sources(self) -> list[str]:
        """Serve the sources that the supervisor named last; gives those that are new."""
        self._sources = self._line.sources
        if self._sources is None:
            return []
        past = {spec.name: spec.past for spec in self._sources}
        for source, feed in list(self._feeds.items()):
            if past.get(source) != feed.spec.past:  # it went, and may have come back
                self._drop(source)
        self._runner.take_sources(self._sources)
        new = []
        for name, spec in self._runner.sources.items():
            feed = self._feeds.setdefault(name, self._feed(spec))
            ends = spec.ending and not feed.spec.ending
            feed.spec = spec
            if feed.thread is None and not feed.token:
                new.append(name)
            elif ends and feed.thread is not None:
                feed.thread.finish()
        return new

    def _hand_on(self, source: str, arrivals: Iterable[Arrival]) -> None:
        for stage in self._runner.hosted:
            if stage.spec.input == "decode":
                self._runner.inboxes[stage.spec.name].add(source, arrivals)

    # -- standing with the store

    def _attach(self, sources: Iterable[str]) -> None:
        """Decode's tokens first: from then on no other worker adds to what the stages read."""
        run, links = self._spec.run, self._links
        taken = {
            source: read_attached(links.of(source).call(*attach_command(source, "decode", run)))
            for source in sources
        }
        self._runner.attach(links, taken)
        for source, attached in taken.items():
            if isinstance(attached, CommitStatus):
                self._runner.refused(source, attached)
                self._drop(source)
                continue
            feed = self._feeds[source]
            self._awake.add(source)
            link = links.of(source)
            if feed.attach(attached) and not self._decoders.lacks_pixels(link, feed):
                self._tell_end(source, feed)
                self._hand_on(source, feed.held())
                continue
            state = DecodeState(self._spec.run)
            if attached.state:
                stored = records.decode(attached.state, DecodeState)
                state = stored if stored.run == self._spec.run else state
            try:
                self._decoders.start(link, feed, attached.position, state)
            except OutOfMeans as error:
                log.warning("source %s: %s; trying again", source, error)
                self._unstarted[source] = time.monotonic() + AGAIN_S
                continue
            if state.done:
                self._line.say(Finished(source, "decode"))
            if self._draining and feed.thread is not None:
                feed.thread.stop()

    def _drop(self, source: str) -> None:
        feed = self._feeds.pop(source, None)
        self._dues.pop(source, None)
        self._unstarted.pop(source, None)
        if feed is not None:
            self._errands.drop(source)
            self._links.drop([source])
            end_thread(feed)

    # -- committing

    def _run_stages(self) -> None:
        """Run the hosted stages and commit; no careful source decodes meanwhile."""
        if not self._spec.careful:
            self._send(self._runner.step())()
            return
        with self._decoders.turn:
            settle = self._send(self._runner.step())
        settle()

    def _send(self, moves: Moves) -> Callable[[], None]:
        """Send what is to be committed and take the answers; gives what settles them."""
        said = {*self._awake, *moves}
        commits = {s: feed.commit() for s in said if (feed := self._feeds.get(s)) is not None}
        hops = {}
        for source, own in commits.items():
            theirs = [move.commit for _, move in moves.get(source, [])]
            if own or theirs:
                hops[source] = SourceHop(source, (*([own] if own else []), *theirs))
        if not hops:
            return lambda: None
        parts = self._links.parts(hops, self._runner.trims(self._feeds)).values()
        for part in parts:
            part.link.send(*part.commands())
        answers = [said for part in parts for said in part.receive()]

        def settle() -> None:
            for source, answer in answers:
                self._settle(source, moves, commits[source], answer)

        return settle

    def _settle(
        self, source: str, moves: Moves, decoded: Commit | None, answer: CommitReply
    ) -> None:
        if not self._runner.settle(source, moves.get(source, []), answer):
            if answer.status is CommitStatus.FENCED:
                self._drop(source)
            return
        if decoded is not None:
            self._runner.wrote(source, "decode", len(decoded.entries))
            feed = self._feeds[source]
            feed.confirm()
            self._tell_end(source, feed)

    def _tell_end(self, source: str, feed: Feed) -> None:
        """Say that a source is decoded to its end, and what of it is missing."""
        end = feed.take_end()
        if end is not None:
            self._line.say(Finished(source, "decode"))
            for what, n in end.counts.items():
                if what == "skipped":  # nobody wanted these
                    continue
                log.warning("source %s: not whole: %s %d", source, what, n)

    # -- waiting

    def _wait(self, most_s: float | None) -> None:
        """Sleep until a frame is due, a decoder has something, room comes, or an order; no longer
        than `most_s`.
        """
        if self._ended():
            return
        held_back = self._runner.held_back
        dues = (
            most_s,
            self._due_in(),
            self._errands.due_in(),
            held_back.due_in(),
            REST_S if held_back.lacks_pixels() else None,
        )
        timeout = min((due for due in dues if due is not None), default=None)
        errands, answers = self._errands.descriptors(), held_back.answers()
        ready = readable([self._line.wake, *errands, *answers], timeout)
        held_back.hear(ready)
        if self._line.wake in ready:
            os.eventfd_read(self._line.wake)
            self._obey()
        answered = self._errands.answers(ready)
        if not answered and not set(ready).isdisjoint(errands):
            self._runner.done += 1  # whoever waits for replicas does not hang
        for source, answer in answered:
            self._done(source, answer)

    def _done(self, source: str, answer: ErrandAnswer) -> None:
        """An errand of a source was answered."""
        feed = self._feeds.get(source)
        if feed is None:
            return
        self._awake.add(source)
        if isinstance(answer, Position):
            if feed.thread is not None:
                feed.thread.release(answer)
        elif isinstance(answer, CommitStatus):
            self._runner.refused(source, answer)
            self._drop(source)
        else:
            self._hand_on(source, feed.begin_epoch(answer))

    def _due_in(self) -> float | None:
        """Seconds until somebody's time comes."""
        dues = [*self._by_due[:1], *((due, "") for due in self._unstarted.values())]
        return max(0.0, min(dues)[0] - time.monotonic()) if dues else None

    def _obey(self) -> None:
        if self._line.ordered is not None:
            self._draining = True
            for feed in self._feeds.values():
                if feed.thread is not None:
                    feed.thread.stop()

    def _ended(self) -> bool:
        """Whether to end: at once, or drained, with pixels for all that was committed."""
        if isinstance(self._line.ordered, Stop):
            return True
        return self._draining and not any(
            feed.held() or (feed.thread is not None and feed.thread.busy)
            for feed in self._feeds.values()
        )
