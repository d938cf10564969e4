"""The stages of one worker: attach to the store, run batches, settle the replies, trim streams."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import StoreRefused
from framegate.pipeline.contracts.records import START, End, Position, Record
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import EndPassed, RecordInHand
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival, HeldBack, Inbox
from framegate.pipeline.engine.stage_commit import PendingCommit
from framegate.pipeline.engine.stream_entries import (
    arrived_now,
    entries_after,
    has_this_clock,
    input_stream,
    read_entry,
)
from framegate.pipeline.engine.trimming import Trimming
from framegate.pipeline.store.hop import (
    END,
    Command,
    CommitReply,
    CommitStatus,
    SourceHop,
    attach_command,
    read_attached,
)
from framegate.pipeline.store.worker_connections import Link, Links
from framegate.pipeline.telemetry.spans import FrameSpans

log = logging.getLogger(__name__)


CommitsOfSource = Sequence[tuple[HostedStage, PendingCommit]]
PendingCommits = dict[str, list[tuple[HostedStage, PendingCommit]]]
"""The commits of a turn by source, those of a stage before those of its readers."""
TakeSources = Callable[[Sequence[SourceSpec]], None]


class Runner:
    """The hosted stages of a worker and their inboxes.

    The stages are in order, inputs before readers. One thread; the loops around it do the waiting.

    sources  the sources that are served, by name
    stale    sources that must be attached again: their position in the store is another
    fenced   sources that other workers took over
    first_stages  the stages that read decode
    spans    of the frames that are traced; None: none is
    done     counts progress; the supervisor takes a worker for hung if it does not grow
    """

    def __init__(
        self,
        spec: WorkerSpec,
        hosted: list[HostedStage],
        line: ControlLine,
        on_sources: TakeSources,
        on_last_end: Callable[[str, str], None] = lambda source, stage: None,  # noqa: ARG005
    ) -> None:
        """Make a runner that serves the sources of `spec`.

        on_sources   called with each new set of sources
        on_last_end  called with a source and a stage that has passed the source's last end
        """
        self.spec = spec
        self.hosted = hosted
        self.sources = {source.name: source for source in spec.sources}
        self.inboxes = {stage.spec.name: Inbox() for stage in hosted}
        self.first_stages = [stage for stage in hosted if stage.spec.input == "decode"]
        passed_on = spec.passed_on()
        self._readers: dict[str, list[str]] = {}
        for stage in hosted:
            name = stage.spec.name
            self._readers[name] = [r.spec.name for r in hosted if r.spec.input == name]
            stage.is_read_here = bool(self._readers[name])
            stage.is_passed_on = name in passed_on
        self._writers = {s.spec.name: spec.stage(s.spec.input or "") for s in hosted}
        self.stale: set[str] = set()
        self.done = 0
        self._line = line
        self._careful_until = dict(spec.careful)
        self.held_back = HeldBack(
            stage.stage.asks for stage in hosted if stage.stage.asks is not None
        )
        self._trimming = Trimming(spec)
        self._on_sources = on_sources
        self._on_last_end = on_last_end
        self.fenced: set[str] = set()
        self.spans: FrameSpans | None = None

    # -- sources

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Serve these sources, except those that other workers took over; attach to new ones."""
        wanted = {source.name: source for source in sources}
        for source in self.sources.keys() - wanted.keys():
            self._forget(source)
        self.fenced &= wanted.keys()
        self.sources = {name: wanted[name] for name in wanted if name not in self.fenced}
        self._on_sources(sources)

    def set_aside(self, links: Links) -> list[str]:
        """Forget what is not in the store of sources whose server is lost; return the others."""
        lost = {source for source in self.sources if not links.has(source)}
        for source in lost:
            self._drop_arrivals(source)
        self.stale -= lost
        return [source for source in self.sources if source not in lost]

    def hosted_if_all(self, names: Collection[str]) -> list[HostedStage]:
        """Return the stages of these names if this worker hosts all of them, else none."""
        hosted = [stage for stage in self.hosted if stage.spec.name in names]
        if len(hosted) < len({*names}):
            return []
        return hosted

    def _drop_arrivals(self, source: str) -> None:
        for stage in self.hosted:
            self.inboxes[stage.spec.name].clear(source)
            self.held_back.forget(source, stage.spec.name)

    def _forget(self, source: str) -> None:
        self._drop_arrivals(source)
        for stage in self.hosted:
            stage.forget(source)
        self._careful_until.pop(source, None)
        self._trimming.forget(source)
        self.stale.discard(source)

    # -- positions in the store

    def attach(self, links: Links, sources: Iterable[str]) -> None:
        """Take new tokens for these sources and load the checkpoints of their stages.

        A source that another run owns is dropped. Raises StoreRefused if the store was emptied, and
        StoreBusy if too few replicas have the tokens.
        """
        sources = list(sources)
        self.report_alive()  # waiting for replicas is not hanging
        for source in sources:
            self._drop_arrivals(source)
            for stage in self.hosted:
                name = stage.spec.name
                reply = links.of(source).call(
                    *attach_command(source, name, self.spec.run, self.spec.main_reader(name))
                )
                attached = read_attached(reply)
                if isinstance(attached, CommitStatus):
                    self.handle_refusal(source, attached)
                    break
                stage.attach(source, attached)
            else:
                self._catch_up(links, source)
            self.stale.discard(source)
        links.await_replicas((s for s in sources if s in self.sources), self.spec.replicas)

    def _catch_up(self, links: Links, source: str) -> None:
        """Read the entries that stages of this process committed and their readers here did not."""
        for stage in self.hosted:
            if stage.spec.input in self.spec.hosted:
                after = stage.checkpoints[source].position
                stream = input_stream(self.spec, stage.spec.name, source)
                reply = links.of(source).call("XRANGE", stream, f"({after}", "+")
                self.receive(stage, source, reply, after)

    def handle_refusal(self, source: str, status: CommitStatus) -> None:
        """Handle the store's refusal to write for a source.

        Raises StoreRefused if the store was emptied.
        """
        if status is CommitStatus.GONE:
            raise StoreRefused(
                f"the store no longer knows source {source}: it was emptied or replaced; nothing "
                "was restarted, start a new run"
            )
        if status is CommitStatus.FENCED:
            log.warning("source %s: another worker took over; this one writes no more", source)
            self.sources.pop(source, None)
            self.fenced.add(source)
            self._forget(source)
        else:
            # The arrivals follow a position that the store does not have: they are read again.
            self._drop_arrivals(source)
            self.stale.add(source)

    def check_tokens(self, link: Link, sources: Iterable[str]) -> None:
        """Drop those of a link's sources that another worker has attached to since.

        Raises StoreRefused if the store was emptied.
        """
        served = [source for source in sources if source in self.sources]
        places = list(itertools.product(served, self.hosted))
        link.send(*(("HGET", keys.at(source, s.spec.name), "t") for source, s in places))
        tokens = [link.receive() for _ in places]
        for (source, stage), token in zip(places, tokens, strict=True):
            if source not in self.sources or token == stage.checkpoints[source].token:
                continue
            status = CommitStatus.GONE
            if token:
                status = CommitStatus.FENCED
            self.handle_refusal(source, status)

    # -- work

    def report_alive(self) -> None:
        """Count this as progress, so that a waiting worker is not taken for a hung one."""
        self.done += 1

    def receive(
        self, stage: HostedStage, source: str, entries: list[list[Any]], after: Position
    ) -> Position:
        """Put the stream entries after a position into a stage's inbox.

        Returns the position of the last one, or `after` if there is none.
        """
        writer = self._writers[stage.spec.name]
        arrivals = [read_entry(entry, writer) for entry in entries]
        if not arrivals:
            return after
        if not has_this_clock(arrivals[-1]):
            arrivals = [arrived_now(arrival) for arrival in arrivals]
        if arrivals[0].position <= after:
            arrivals = [arrival for arrival in arrivals if arrival.position > after]
        self.put(stage.spec.name, source, arrivals)
        if not arrivals:
            return after
        return arrivals[-1].position

    def trace_decoded(self, source: str, arrivals: Sequence[Arrival]) -> None:
        """Add the spans of those frames that are traced; they were decoded just now."""
        if self.spans is None:
            return
        now = time.monotonic()
        for arrival in arrivals:
            record = arrival.record
            if isinstance(record, Record) and self.spans.sample.has(source, arrival.position):
                self.spans.add_decoded(source, arrival.position, record, now)

    def put(self, stage: str, source: str, arrivals: Sequence[Arrival]) -> None:
        """Add arrivals to a stage's inbox, in the order of their positions.

        A camera's frame is tried at once even if a frame before it awaits an answer, so that the
        stage asks about it meanwhile. For a file, many frames queue up; they are scanned once per
        answer, not once per frame.
        """
        self.inboxes[stage].add(source, arrivals)
        if arrivals and (source, stage) in self.held_back and self.sources[source].live:
            self.held_back.retry_now(source, stage)

    def is_idle(self) -> bool:
        """Return whether no stage has an arrival that could be done now."""
        for name, inbox in self.inboxes.items():
            for source in inbox.waiting():
                if (source, name) not in self.held_back:
                    return False
        return True

    def is_behind(self, source: str) -> bool:
        """Return whether a stage that reads decode has entries of a source that it did not take."""
        return any(self.inboxes[stage.spec.name].count(source) for stage in self.first_stages)

    def has_input(self) -> bool:
        """Return whether any stage has an arrival, including those that are held back."""
        return any(inbox.waiting() for inbox in self.inboxes.values())

    def step(self) -> PendingCommits:
        """Run each stage on one batch of its inbox, inputs before readers.

        While a source is careful, only the last stage with a batch runs. At most one record is then
        in hand, in one stage, and it is committed before the next is taken: if the worker dies, the
        supervisor knows the record and the stage.
        """
        commits: PendingCommits = {}
        is_careful = bool(self._careful_until)
        holds_back = bool(self.held_back)
        stages: Iterable[HostedStage] = self.hosted
        if is_careful:
            stages = reversed(self.hosted)
        for stage in stages:
            name = stage.spec.name
            inbox = self.inboxes[name]
            resting: list[str] = []
            if holds_back:
                resting = self.held_back.resting(name)
            batch = inbox.take(stage.stage.batch, self._careful_until, resting)
            if not batch:
                continue
            if is_careful:
                self._announce(stage, batch)
            for source, pending in stage.answer(batch, self._is_patient).items():
                # A record that awaits an answer stays announced: asking about it may be what kills.
                if pending.undone or holds_back:
                    holds_back = True
                    inbox.give_back(source, pending.undone)
                    self.held_back.note(
                        source, name, awaits=pending.awaits, lacks_pixels=pending.lacks_pixels
                    )
                if pending.has_progress:
                    commits.setdefault(source, []).append((stage, pending))
                    for reader in self._readers[name]:
                        self.put(reader, source, pending.onward)
            self.done += 1
            if is_careful and commits:
                break
        for source, of_source in commits.items():
            self._add_entries(of_source, self.common_position(source, of_source))
        return commits

    def common_position(
        self, source: str, commits: CommitsOfSource, stages: Iterable[HostedStage] = ()
    ) -> Position:
        """Return the position that all of `stages` (default: all) reach with these commits.

        A frame up to there passes all of them in one write, so no reader ever needs the entries
        that one of them makes for the next.
        """
        lasts = {stage.spec.name: pending.commit.last for stage, pending in commits}
        positions = []
        for stage in stages or self.hosted:
            positions.append(lasts.get(stage.spec.name) or stage.checkpoints[source].position)
        return min(positions)

    def _add_entries(self, commits: CommitsOfSource, through: Position) -> None:
        """Add entries after `through` to the commits of stages that only this process reads.

        A later hop, or the process that replaces this one, reads them. Ends are always stored.
        """
        for stage, pending in commits:
            if not stage.is_passed_on:
                continue
            entries = entries_after(through, pending.onward)
            if entries:
                pending.commit = msgspec.structs.replace(pending.commit, entries=entries)

    def _announce(self, stage: HostedStage, batch: dict[str, list[Arrival]]) -> None:
        for source, arrivals in batch.items():
            at = arrivals[0].position
            if at <= self._careful_until.get(source, START):
                self._line.tell(RecordInHand(source, stage.spec.name, at))

    def _is_patient(self, stage: str, source: str, position: Position) -> bool:
        """Return whether missing pixels will arrive.

        The decoder decodes the frames of a file of this run again, and keeps them for readers that
        it waits for.
        """
        spec = self.sources[source]
        return self.spec.stage(stage).reliable and not spec.live and position.epoch > spec.past

    def settle(self, source: str, commits: CommitsOfSource, reply: CommitReply) -> bool:
        """Handle the store's reply to a source's commits; return whether it wrote them.

        Raises StoreRefused if the store was emptied.
        """
        if reply.status is not CommitStatus.OK:
            self.handle_refusal(source, reply.status)
            return False
        if reply.refused:
            log.error(
                "source %s: the stream already had %d of the entries; a bug in the protocol, "
                "please report it",
                source,
                reply.refused,
            )
        for stage, pending in commits:
            name = stage.spec.name
            commit = pending.commit
            stage.accept(source, pending)
            if commit.previous < self._careful_until.get(source, START):
                self._line.tell(RecordInHand(source, name, None))
                self._relax(source)
            if commit.entries:
                self.count_entries(source, name, len(commit.entries))
            if commit.entries and commit.entries[-1].kind == END:
                end = records.decode_versioned(commit.entries[-1].data, End)
                if end.last and commit.last.epoch > self.sources[source].past:
                    self._on_last_end(source, name)
                    self._line.tell(EndPassed(source, name))
        return True

    def _relax(self, source: str) -> None:
        """Treat a source as usual again once all its stages are past the suspected record."""
        until = self._careful_until[source]
        if all(stage.checkpoints[source].position > until for stage in self.hosted):
            del self._careful_until[source]

    def count_entries(self, source: str, stage: str, entries: int) -> None:
        """Count the entries that a commit added to a stage's stream."""
        self._trimming.count_entries(source, stage, entries)

    def make_all_trims_due(self) -> None:
        """Make the next `trims` cover all streams."""
        self._trimming.make_all_due(self.sources)

    def trims(self, sources: Iterable[str]) -> list[tuple[str, Command]]:
        """Return the trims that are due for these sources, each with its source."""
        served = [self.sources[name] for name in sources if name in self.sources]
        return self._trimming.commands({source.name: source.live for source in served})


def hops(commits: PendingCommits) -> dict[str, SourceHop]:
    """Return the hop of each source."""
    hops = {}
    for source, of_source in commits.items():
        hops[source] = SourceHop(source, tuple(pending.commit for _, pending in of_source))
    return hops
