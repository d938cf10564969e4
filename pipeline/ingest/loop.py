"""The loop of a worker that decodes: gather frames that are due, run the stages behind, commit,
wait.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Final

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import Fenced, OutOfMeans
from framegate.pipeline.contracts.records import START, DecodeState, Position
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.control import ControlLine, EndPassed, Stop
from framegate.pipeline.engine.held_back import REST_S
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.runner import CommitsOfSource, PendingCommits, Runner
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.ingest.agenda import Agenda
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.ingest.launcher import DecoderLauncher, OpenSource, end_thread
from framegate.pipeline.ingest.store_waits import EpochGiven, RoomMade, StoreWaits, WaitOver
from framegate.pipeline.store.connection import readable
from framegate.pipeline.store.hop import (
    END,
    Commit,
    CommitReply,
    CommitStatus,
    SourceHop,
    attach_command,
    read_attached,
)
from framegate.pipeline.store.links import LinkBatch, Links

log = logging.getLogger(__name__)

_ANSWERS_S: Final = 1.0  # after which the store's answers are looked at, whatever else comes


class _Sent:
    """What was committed last. Its answers are taken when the loop wakes for something else: to be
    woken for them would cost as much as to make the commit.
    """

    def __init__(
        self, parts: list[LinkBatch], pending: PendingCommits, decoded: Mapping[str, Commit]
    ) -> None:
        """parts: by link; pending, decoded: what stages and decoders said, by source."""
        self.pending, self.decoded = pending, decoded
        self._parts = parts

    def __bool__(self) -> bool:
        """Return whether answers are still to be taken."""
        return bool(self._parts)

    @property
    def ends(self) -> bool:
        """Return whether somebody waits for the answers, as an end is among it."""
        return any(
            commit.entries and commit.entries[-1].kind == END
            for part in self._parts
            for hop in part.hops
            for commit in hop.commits
        )

    @property
    def sources(self) -> Iterable[str]:
        """Of which the store has not answered yet."""
        return (hop.source for part in self._parts for hop in part.hops)

    def answers(self) -> list[tuple[str, CommitReply]]:
        """Take the answers, waiting for those that are not here; none a second time."""
        parts, self._parts = self._parts, []
        return [answer for part in parts for answer in part.receive()]


class IngestLoop:
    """Serves decode for its sources, and the stages that this process hosts behind it.

    Holds what outlives a connection to the store: feeds with their decoder threads, which go on
    while the store is away, and what they have decoded and not committed.
    """

    def __init__(
        self, runner: Runner, line: ControlLine, shared: SharedViews, open_source: OpenSource
    ) -> None:
        self._runner, self._line = runner, line
        self._agenda = Agenda()
        self._launcher = DecoderLauncher(runner.spec, line, shared, open_source, self._agenda.note)
        self._feeds: dict[str, Feed] = {}
        self._session: IngestSession | None = None  # the last one

    def connected(self) -> bool:
        """Return whether the last session came so far as to do anything."""
        return self._session is not None and self._session.turns > 0

    def progress(self) -> int:
        """What was done so far; grows while files are decoded again up to their position, too."""
        threads = [feed.thread for feed in list(self._feeds.values()) if feed.thread]
        return self._runner.done + sum(thread.done for thread in threads)

    def waiting(self) -> list[str]:
        """Sources whose next frame is decoded and not yet due at its own pace. Any thread."""
        return self._agenda.waiting()

    def serve(self, links: Links) -> None:
        """Work until ordered to stop, or drained. Fenced when no source is left.

        A connection that breaks ends the session. Whether the store took the last commit, its reply
        lost, is found when the next one attaches: a feed drops what the store has, and commits the
        rest again (Feed.attach).
        """
        self._session = None
        self._session = IngestSession(
            self._runner, self._line, self._launcher, self._feeds, self._agenda, links
        )
        self._session.serve()


class IngestSession:
    """The loop on one set of connections. One thread.

    turns  how often it went round
    """

    def __init__(
        self,
        runner: Runner,
        line: ControlLine,
        launcher: DecoderLauncher,
        feeds: dict[str, Feed],
        agenda: Agenda,
        links: Links,
    ) -> None:
        """feeds, agenda: of the IngestLoop, and kept up to date here."""
        self.turns = 0
        self._runner, self._spec, self._line = runner, runner.spec, line
        self._launcher, self._feeds, self._agenda = launcher, feeds, agenda
        self._links, self._waits = links, StoreWaits(runner.spec, links)
        hosted = {stage.spec.name: stage for stage in runner.hosted}
        self._last_readers = {
            live: [hosted[name] for name in names if hosted.keys() >= {*names}]
            for live, names in ((live, runner.spec.last_readers(live)) for live in (False, True))
        }
        self._is_passed_on = "decode" in runner.spec.passed_on()
        self._sources: list[SourceSpec] | None = None
        self._draining = False
        self._sent = _Sent([], {}, {})

    def serve(self) -> None:
        """Attach, then go round; see IngestLoop.serve."""
        self._obey()
        self._take_sources()
        self._runner.let_all_be_trimmed()
        for source, trim in self._runner.trims(self._runner.sources):
            self._links.of(source).call(*trim)
        try:
            self._attach(list(self._feeds))
            while not self._ended():
                if self._line.sources is not self._sources:
                    self._attach(self._take_sources())
                if self._lost_all():
                    raise Fenced("another worker has taken all sources over")
                self._turn()
                self.turns += 1
        finally:
            self._waits.close()

    def _turn(self) -> None:
        now, wall = time.monotonic(), time.time()
        if again := self._agenda.wake_due(now):
            self._attach(again)
        for source in self._agenda.awake:
            if not self._draining and (feed := self._feeds.get(source)) is not None:
                self._hand_on(source, feed.gather(now, wall))
        self._run_stages()
        self._let_rest()
        if not self._lost_all():
            at_once = self._agenda.awake or not self._runner.idle() or self._ended()
            self._wait(0.0 if at_once else None)

    def _let_rest(self) -> None:
        """Let sources sleep that have nothing to do now, and wait for what each cannot go on
        without.
        """
        now = time.monotonic()
        for source in list(self._agenda.awake):
            feed, due_s = self._feeds.get(source), None
            if feed is not None and not self._draining:
                if feed.needs_epoch():
                    self._waits.for_epoch(source, feed.token, feed.after_epoch)
                else:
                    due_s = feed.due_s(now)
                    if (until := feed.waits_for()) is not None:
                        self._await_room(feed, until)
            if due_s != 0.0 and (feed is None or not feed.has_news):
                is_away = feed is not None and feed.is_away
                self._agenda.rest(source, None if due_s is None else now + due_s, is_away)

    def _await_room(self, feed: Feed, until: Position) -> None:
        """Let a decoder go on once all reliable readers are there. If all of them are in this
        process nobody need be asked: what the store took is known.
        """
        read = self._read_to(feed)
        if read is None:
            self._waits.for_room(feed.spec.name, feed.spec.live, until)
        elif read >= until and feed.thread is not None:
            feed.thread.release(read)

    def _read_to(self, feed: Feed, pending: CommitsOfSource = ()) -> Position | None:
        """Where the last readers of a source are once the store has taken what is pending; None if
        some of them are in another process.
        """
        readers = self._last_readers[feed.spec.live]
        return self._runner.through(feed.spec.name, pending, readers) if readers else None

    def _may_go_on(self, source: str, pending: CommitsOfSource = ()) -> bool:
        """Return whether a decoder waits for room, and has it with what the stages here do."""
        feed = self._feeds.get(source)
        if feed is None or (until := feed.waits_for()) is None:
            return False
        read = self._read_to(feed, pending)
        return read is not None and read >= until

    def _obey(self) -> None:
        if self._line.ordered is not None:
            self._draining = True
            for feed in self._feeds.values():
                if feed.thread is not None:
                    feed.thread.stop()

    def _ended(self) -> bool:
        """Return whether to end: at once, or drained. Then there are pixels for all that was
        committed, and the stages here have done it: there may be no other worker that would.
        """
        if isinstance(self._line.ordered, Stop):
            return True
        return (
            self._draining
            and not self._runner.has_input()
            and not any(
                feed.held() or (feed.thread is not None and feed.thread.busy)
                for feed in self._feeds.values()
            )
        )

    def _lost_all(self) -> bool:
        """Return whether others took all that this worker had; one that has nothing yet waits."""
        return not self._feeds and bool(self._runner.fenced)

    # -- which sources

    def _take_sources(self) -> list[str]:
        """Serve the sources that the supervisor named last; gives those that are new."""
        self._sources = self._line.sources
        if self._sources is not None:
            past = {spec.name: spec.past for spec in self._sources}
            for source, feed in list(self._feeds.items()):
                if past.get(source) != feed.spec.past:  # it went, and may have come back
                    self._drop(source)
            self._runner.take_sources(self._sources)
        new = []
        for name, spec in self._runner.sources.items():
            feed = self._feeds.setdefault(name, Feed(spec, self._spec.run, self._spec.began_mono))
            ends = spec.ending and not feed.spec.ending
            feed.spec = spec
            if feed.thread is None and not feed.token:
                new.append(name)
            elif ends and feed.thread is not None:
                feed.thread.finish()
        return new

    def _attach(self, sources: Iterable[str]) -> None:
        """Take tokens and go on from where the store stands; with decoders that still fit it.

        Decode's tokens first: from then on no other worker adds to what the stages behind read.
        """
        taken = {
            source: read_attached(
                self._links.of(source).call(*attach_command(source, "decode", self._spec.run))
            )
            for source in sources
        }
        self._runner.attach(self._links, taken)
        for source, attached in taken.items():
            if isinstance(attached, CommitStatus):
                self._runner.refused(source, attached)
                self._drop(source)
                continue
            feed = self._feeds[source]
            self._agenda.awake.add(source)
            link = self._links.of(source)
            if feed.attach(attached) and not self._launcher.lacks_pixels(link, feed):
                self._tell_end(source, feed)
                self._hand_on(source, feed.held())
                continue
            state = DecodeState(self._spec.run)
            if attached.state:
                stored = records.decode(attached.state, DecodeState)
                state = stored if stored.run == self._spec.run else state
            try:
                self._launcher.start(link, feed, attached.position, state)
            except OutOfMeans as error:
                log.warning("source %s: %s; trying again", source, error)
                self._agenda.retry(source)
                continue
            if state.done:
                self._line.say(EndPassed(source, "decode"))
            if self._draining and feed.thread is not None:
                feed.thread.stop()

    def _drop(self, source: str) -> None:
        feed = self._feeds.pop(source, None)
        self._agenda.forget(source)
        if feed is not None:
            self._waits.forget(source)
            self._links.drop([source])
            end_thread(feed)

    # -- committing

    def _hand_on(self, source: str, arrivals: Sequence[Arrival]) -> None:
        """Give frames to the stages in this process that read what decode writes."""
        for stage in self._runner.hosted:
            if stage.spec.input == "decode":
                self._runner.put(stage.spec.name, source, arrivals)

    def _run_stages(self) -> None:
        """Run the hosted stages and commit; no careful source decodes meanwhile."""
        with self._launcher.turn if self._spec.careful else nullcontext():
            self._send(self._runner.step())
            at_once = self._spec.careful or self._draining or self._sent.ends
            at_once = at_once or any(
                self._may_go_on(source, self._sent.pending.get(source, ()))
                for source in self._sent.sources
            )
            answers = self._sent.answers() if at_once else []
        # Not while the turn is held: a source that is dropped has its thread ended, and waited for,
        # and that thread may be waiting for the turn.
        self._settle(answers)

    def _send(self, pending: PendingCommits) -> None:
        """Send what is to be committed.

        A source's frames and what the stages here say about them are one hop: the stages need not
        read them, and no other worker ever sees the one without the other.
        """
        hops = {}
        decoded: dict[str, Commit] = {}
        for source in {*self._agenda.awake, *pending}:
            if (feed := self._feeds.get(source)) is None:
                continue
            said_of = pending.get(source, [])
            commits = [said.commit for _, said in said_of]
            # What is in flight its own decoder reads, too.
            is_passed_on = self._is_passed_on and self._last_readers[feed.spec.live]
            through = self._runner.through(source, said_of) if is_passed_on else START
            if (ours := feed.commit(through)) is not None:
                decoded[source] = ours
                commits.insert(0, ours)
            if commits:
                hops[source] = SourceHop(source, tuple(commits))
        if not hops:
            return
        parts = list(self._links.parts(hops, self._runner.trims(self._feeds)).values())
        self._sent = _Sent(parts, pending, decoded)
        for part in parts:
            part.link.send(*part.commands())

    def _settle(self, answers: Iterable[tuple[str, CommitReply]]) -> None:
        """Take the store's answers to what was sent."""
        for source, answer in answers:
            if not self._runner.settle(source, self._sent.pending.get(source, []), answer):
                if answer.status is CommitStatus.FENCED:
                    self._drop(source)
            elif (commit := self._sent.decoded.get(source)) is not None:
                self._runner.wrote(source, "decode", len(commit.entries))
                feed = self._feeds[source]
                feed.confirm()
                self._tell_end(source, feed)
            if self._may_go_on(source):
                self._agenda.awake.add(source)
        if self._runner.stale:
            self._attach(set(self._runner.stale))

    def _tell_end(self, source: str, feed: Feed) -> None:
        """Say that a source is decoded to its end, and what of it is missing."""
        end = feed.take_end()
        if end is not None:
            self._line.say(EndPassed(source, "decode"))
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
            self._agenda.due_in(),
            self._waits.due_in(),
            held_back.retry_in(),
            REST_S if held_back.lacks_pixels() else None,
            _ANSWERS_S if self._sent else None,
        )
        timeout = min((due for due in dues if due is not None), default=None)
        waits, answers = self._waits.descriptors(), held_back.answers()
        ready = readable([self._line.wake, *waits, *answers], timeout)
        self._settle(self._sent.answers())  # before anything else is asked over these links
        held_back.hear(ready)
        if self._line.wake in ready:
            os.eventfd_read(self._line.wake)
            self._obey()
        over = self._waits.hear(ready)
        if not over and not set(ready).isdisjoint(waits):
            self._runner.report_alive()  # waiting for replicas is not hanging
        for wait in over:
            self._go_on(wait)

    def _go_on(self, wait: WaitOver) -> None:
        """Let a source go on with what it waited for, or without it."""
        feed = self._feeds.get(wait.source)
        if feed is None:
            return
        self._agenda.awake.add(wait.source)
        if isinstance(wait, RoomMade):
            if feed.thread is not None:
                feed.thread.release(wait.read)
        elif isinstance(wait, EpochGiven):
            self._hand_on(wait.source, feed.begin_epoch(wait.epoch))
        else:
            self._runner.refused(wait.source, wait.status)
            self._drop(wait.source)
