"""The loop of a worker that decodes: take due frames, run the stages behind decode, commit, wait.

Invariants of a turn:

- At most one commit of a source is in flight (`_sent`). Its reply is read before the next commit is
  made and before any other request uses the same connection.
- A source's decoded frames and the results of hosted stages for them are one hop, so another
  worker sees both or neither.
- A source that leaves `awake` has no due work and no entry to commit. A decoder thread, a due time
  or the end of a wait at the store wakes it.
- The loop sleeps only in `_wait`, and never while a frame is due or a stage can run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import Fenced, OutOfMeans
from framegate.pipeline.contracts.records import DecodeState
from framegate.pipeline.contracts.source import LAZY_PREFIX
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import EndPassed, Stop, Stopped
from framegate.pipeline.engine.inbox import REST_S, UNDECODED_PER_FRAME, Arrival
from framegate.pipeline.engine.runner import CommitsOfSource, PendingCommits, Runner
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.ingest.decoding_room import DecodingRoom
from framegate.pipeline.ingest.due_times import Agenda
from framegate.pipeline.ingest.feed import MAX_PARTS, Feed
from framegate.pipeline.ingest.launcher import DecoderLauncher, OpenRecorded, OpenSource, end_thread
from framegate.pipeline.ingest.sent_commits import SentCommits
from framegate.pipeline.ingest.store_waits import EpochGiven, RoomMade, StoreWaits, WaitOver
from framegate.pipeline.store.hop import (
    Commit,
    CommitReply,
    CommitStatus,
    SourceHop,
    attach_command,
    read_attached,
)
from framegate.pipeline.store.worker_connections import Links, readable

log = logging.getLogger(__name__)

_ANSWERS_S: Final = 1.0  # the longest time that a reply of the store stays unread


class IngestLoop:
    """The sources of a decoding worker and the stages that this process runs behind decode.

    It keeps the state that outlives a connection to the store: feeds with uncommitted entries, and
    their decoder threads, which continue while the store is unreachable.
    """

    def __init__(
        self,
        runner: Runner,
        line: ControlLine,
        shared: SharedViews,
        open_source: OpenSource,
        open_recorded: OpenRecorded | None = None,
    ) -> None:
        self._runner = runner
        self._line = line
        self._agenda = Agenda()
        self._launcher = DecoderLauncher(
            runner.spec, line, shared, open_source, open_recorded, self._agenda.note
        )
        self._feeds: dict[str, Feed] = {}
        self._session: IngestSession | None = None  # the last one

    def connected(self) -> bool:
        """Return whether the last session completed a turn."""
        return self._session is not None and self._session.turns > 0

    def progress(self) -> int:
        """Return a number that grows with work, also with repeated decoding after a restart."""
        threads = [feed.thread for feed in list(self._feeds.values()) if feed.thread]
        return self._runner.done + sum(thread.done for thread in threads)

    def waiting(self) -> list[str]:
        """Return the sources whose next frame is decoded and due later. Any thread."""
        return self._agenda.waiting()

    def close_cameras(self, names: Collection[str]) -> None:
        """Close the connections of these cameras, and allow those of all others. Any thread."""
        for name, feed in list(self._feeds.items()):
            thread = feed.thread
            if thread is not None:
                thread.keep_closed(name in names)

    def serve(self, links: Links) -> None:
        """Work until ordered to stop, or drained. Fenced: no source is left.

        A broken connection ends the session. The next session learns from `attach` whether the
        store accepted the last commit: the feed drops accepted entries and commits the others.
        """
        self._session = None
        self._session = IngestSession(
            self._runner, self._line, self._launcher, self._feeds, self._agenda, links
        )
        self._session.serve()


class IngestSession:
    """The loop on one set of connections. One thread.

    turns  the number of completed turns
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
        """feeds, agenda: those of the IngestLoop. Feeds of a lost server are left alone."""
        self.turns = 0
        self._runner = runner
        self._spec = runner.spec
        self._line = line
        self._launcher = launcher
        self._all_feeds = feeds
        self._feeds: dict[str, Feed] = {}
        self._agenda = agenda
        self._links = links
        self._waits = StoreWaits(runner.spec, links)
        self._room = DecodingRoom(runner, self._waits)
        self._behind: set[str] = set()  # files whose next events wait until the stages have room
        self._sources: list[SourceSpec] | None = None
        self._draining = False
        self._leaving: set[str] = set()  # sources that are handed over and not reported
        self._sent = SentCommits([], {}, {})

    def serve(self) -> None:
        """Attach, then run turns; see IngestLoop.serve."""
        self._follow_orders()
        self._take_sources()
        self._runner.make_all_trims_due()
        for source, trim in self._runner.trims(self._feeds):
            self._links.of(source).call(*trim)
        try:
            self._attach(list(self._feeds))
            while not self._ended():
                if self._links.has_changed and not self._draining:
                    return
                if self._line.sources is not self._sources:
                    self._attach(self._take_sources())
                if self._lost_all():
                    raise Fenced("another worker has taken over all sources")
                self._turn()
                self.turns += 1
        finally:
            self._waits.close()

    def _turn(self) -> None:
        now = time.monotonic()
        wall = time.time()
        if retries := self._agenda.wake_due(now):
            self._attach([source for source in retries if source in self._feeds])
        self._gather(now, wall)
        self._run_stages()
        free = {source for source in self._behind if not self._runner.is_behind(source)}
        self._behind -= free
        self._agenda.awake.update(free)
        self._let_rest()
        self._report_stopped()
        if not self._lost_all():
            is_busy = self._agenda.awake or not self._runner.is_idle() or self._ended()
            self._wait(0.0 if is_busy else None)

    def _gather(self, now: float, wall: float) -> None:
        """Take the events of decoders for which the stages have room in this turn.

        The commit of decode covers all entries that were taken. Those that the stages do not pass
        in the same turn must be stored, although only this process reads them. So a file that has
        many frames ready gives a batch, and the next one once the stages have taken it.
        """
        feeds = [self._feeds[source] for source in self._agenda.awake if source in self._feeds]
        share = MAX_PARTS
        if self._runner.first_stages and feeds:
            batch = min(stage.stage.batch for stage in self._runner.first_stages)
            share = batch * UNDECODED_PER_FRAME // len(feeds)
        for feed in filter(self._is_read, feeds):
            source = feed.spec.name
            if feed.spec.live or feed.spec.pace == "realtime":  # its frames arrive now
                self._hand_on(source, feed.gather(now, wall))
            elif self._runner.is_behind(source):
                self._behind.add(source)
            else:
                self._hand_on(source, feed.gather(now, wall, share))

    def _is_read(self, feed: Feed) -> bool:
        """Return whether events of a decoder are taken. While the run drains, those of a camera
        are: it puts the frames of packets that it held.
        """
        return feed.spec.live or not (self._draining or feed.spec.hands_over)

    def _let_rest(self) -> None:
        """Let sources without work sleep, and start the waits that each of them needs."""
        now = time.monotonic()
        for source in list(self._agenda.awake):
            feed = self._feeds.get(source)
            due_s: float | None = None
            if feed is not None and self._is_read(feed) and source not in self._behind:
                if feed.needs_epoch():
                    self._waits.for_epoch(source, feed.token, feed.after_epoch)
                else:
                    due_s = feed.due_s(now)
                    self._room.ask(feed)
            if due_s != 0.0 and (feed is None or not feed.has_news):
                is_away = feed is not None and feed.is_away
                due = None
                if due_s is not None:
                    due = now + due_s
                self._agenda.rest(source, due, is_away)

    def _follow_orders(self) -> None:
        if self._line.ordered is not None:
            self._draining = True
            for feed in self._all_feeds.values():
                if feed.thread is not None:
                    feed.thread.stop()

    def _ended(self) -> bool:
        """Return whether to end: ordered to stop, or drained.

        Drained: each committed frame has its pixels and the hosted stages have processed it,
        because no other worker may be left to do so.
        """
        if isinstance(self._line.ordered, Stop):
            return True
        if not self._draining or self._runner.has_input():
            return False
        return not any(feed.is_busy for feed in self._feeds.values())

    def _lost_all(self) -> bool:
        """Return whether other workers took all sources; a worker that never had any waits."""
        return not self._all_feeds and bool(self._runner.fenced)

    # -- the sources

    def _take_sources(self) -> list[str]:
        """Serve the sources that the supervisor named last; return the new sources."""
        self._sources = self._line.sources
        if self._sources is not None:
            named = {spec.name: spec for spec in self._sources}
            for source, feed in list(self._all_feeds.items()):
                if not feed.serves(named.get(source)):  # removed, and perhaps added again
                    self._drop(source)
            self._runner.take_sources(self._sources)
        new = []
        for name in self._runner.set_aside(self._links):
            spec = self._runner.sources[name]
            made = Feed(spec, self._spec.run, self._spec.began_mono)
            feed = self._feeds[name] = self._all_feeds.setdefault(name, made)
            is_ending = spec.ending and not feed.spec.ending
            if spec.hands_over:
                self._leaving.add(name)
            feed.follow(spec)
            if feed.thread is None and not feed.token:
                new.append(name)
            elif is_ending and feed.thread is not None:
                if spec.hands_over:
                    feed.thread.stop()
                else:
                    feed.thread.finish()
        return new

    def _report_stopped(self) -> None:
        """Report the sources that are handed over once their decoders have no more to commit."""
        for source in sorted(self._leaving):
            feed = self._feeds.get(source)
            if feed is None or not feed.is_busy:
                self._leaving.discard(source)
                self._line.tell(Stopped(source))

    def _attach(self, sources: Iterable[str]) -> None:
        """Take tokens and continue from the store's positions, with the decoders that fit them.

        The tokens of decode come first: after that no other worker writes what the stages read.
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
                self._runner.handle_refusal(source, attached)
                self._drop(source)
                continue
            feed = self._feeds[source]
            self._agenda.awake.add(source)
            link = self._links.of(source)
            if feed.attach(attached) and not self._launcher.lacks_pixels(link, feed):
                self._report_end(source, feed)
                self._hand_on(source, feed.unconfirmed())
                continue
            state = DecodeState(self._spec.run)
            if attached.state:
                stored = records.decode(attached.state, DecodeState)
                if stored.run == self._spec.run or feed.spec.continues:
                    state = stored
            try:
                self._launcher.start(link, feed, attached.position, state)
            except OutOfMeans as error:
                log.warning("source %s: %s; trying again", source, error)
                self._agenda.retry(source)
                continue
            if state.done:
                self._line.tell(EndPassed(source, "decode"))
            if self._draining and feed.thread is not None:
                feed.thread.stop()

    def _drop(self, source: str) -> None:
        feed = self._all_feeds.pop(source, None)
        self._feeds.pop(source, None)
        self._agenda.forget(source)
        self._room.forget(source)
        self._behind.discard(source)
        if feed is not None:
            self._waits.forget(source)
            self._links.drop([source])
            end_thread(feed)

    # -- committing

    def _hand_on(self, source: str, arrivals: Sequence[Arrival]) -> None:
        """Give entries to the stages in this process that read decode's stream."""
        self._runner.trace_decoded(source, arrivals)
        for stage in self._runner.first_stages:
            self._runner.put(stage.spec.name, source, arrivals)

    def _run_stages(self) -> None:
        """Run the hosted stages and commit. Meanwhile no careful source decodes."""
        turn: AbstractContextManager[object] = nullcontext()
        if self._spec.careful:
            turn = self._launcher.turn
        answers: list[tuple[str, CommitReply]] = []
        with turn:
            self._send(self._runner.step())
            if self._must_read_answers():
                answers = self._sent.answers()
        # After the turn is released: dropping a source joins its thread, which may wait for the
        # turn.
        self._settle(answers)

    def _must_read_answers(self) -> bool:
        if self._spec.careful or self._draining or self._leaving or self._sent.has_end:
            return True
        return any(
            self._may_resume(source, self._sent.pending.get(source, ()))
            for source in self._sent.sources
        )

    def _may_resume(self, source: str, pending: CommitsOfSource = ()) -> bool:
        feed = self._feeds.get(source)
        return feed is not None and self._room.is_made(feed, pending)

    def _send(self, pending: PendingCommits) -> None:
        """Send all pending commits.

        A source's frames and the hosted stages' results for them are one hop: the stages need not
        read the frames from the store, and no other worker sees one without the other.
        """
        hops = {}
        decoded: dict[str, Commit] = {}
        for source in {*self._agenda.awake, *pending}:
            feed = self._feeds.get(source)
            if feed is None:
                continue
            outputs = pending.get(source, [])
            commits = [output.commit for _, output in outputs]
            commit = feed.commit(self._room.passed(feed, outputs))
            if commit is not None:
                decoded[source] = commit
                commits.insert(0, commit)
            if commits:
                hops[source] = SourceHop(source, tuple(commits))
        if not hops:
            return
        parts = list(self._links.parts(hops, self._runner.trims(self._feeds)).values())
        self._sent = SentCommits(parts, pending, decoded)
        for part in parts:
            part.link.send(*part.commands())

    def _settle(self, answers: Iterable[tuple[str, CommitReply]]) -> None:
        """Apply the store's replies to the last commit."""
        for source, answer in answers:
            if not self._runner.settle(source, self._sent.pending.get(source, []), answer):
                if answer.status is CommitStatus.FENCED:
                    self._drop(source)
            elif (commit := self._sent.decoded.get(source)) is not None:
                self._runner.count_entries(source, "decode", len(commit.entries))
                feed = self._feeds[source]
                feed.confirm()
                self._report_end(source, feed)
            if self._may_resume(source):
                self._agenda.awake.add(source)
        if self._runner.stale:
            self._attach(set(self._runner.stale))

    def _report_end(self, source: str, feed: Feed) -> None:
        """Report that the source is decoded to its end, and log the counts of missing frames."""
        end = feed.take_end()
        if end is None:
            return
        self._line.tell(EndPassed(source, "decode"))
        for name, n in end.counts.items():
            if name != "skipped" and not name.startswith(LAZY_PREFIX):  # these are no losses
                log.warning("source %s: incomplete: %s %d", source, name, n)

    # -- waiting

    def _wait(self, max_s: float | None) -> None:
        """Sleep at most `max_s` until a frame is due, or an event, a reply or an order arrives."""
        if self._ended():
            return
        held_back = self._runner.held_back
        dues = [max_s, self._agenda.due_in(), self._waits.due_in(), held_back.retry_in()]
        if held_back.lacks_pixels():
            dues.append(REST_S)
        if self._sent:
            dues.append(_ANSWERS_S)
        timeout = min((due for due in dues if due is not None), default=None)
        waits = self._waits.descriptors()
        answers = held_back.descriptors()
        ready = readable([self._line.wake, *waits, *answers], timeout)
        self._settle(self._sent.answers())  # before another request uses these connections
        held_back.take_answers(ready)
        if self._line.wake in ready:
            os.eventfd_read(self._line.wake)
            self._follow_orders()
        over = self._waits.hear(ready)
        if not over and not set(ready).isdisjoint(waits):
            self._runner.report_alive()  # a worker that waits for replicas does not hang
        for wait in over:
            self._resume(wait)

    def _resume(self, wait: WaitOver) -> None:
        """Let a source continue with the result of its wait, or drop it without one."""
        feed = self._feeds.get(wait.source)
        if feed is None:
            return
        self._agenda.awake.add(wait.source)
        if isinstance(wait, RoomMade):
            self._room.hear(feed, wait)
        elif isinstance(wait, EpochGiven):
            self._hand_on(wait.source, feed.begin_epoch(wait.epoch))
        else:
            self._runner.handle_refusal(wait.source, wait.status)
            self._drop(wait.source)
