"""The stages of one worker: attach to the store, run what waits, settle its answers, trim."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from framegate.pipeline.contracts import keys, records, results
from framegate.pipeline.contracts.errors import StoreRefused
from framegate.pipeline.contracts.records import START, End, Position, Record, SideOutput
from framegate.pipeline.contracts.spec import SourceSpec, StageSpec, WorkerSpec
from framegate.pipeline.engine.control import ControlLine, EndPassed, RecordInHand
from framegate.pipeline.engine.held_back import HeldBack
from framegate.pipeline.engine.hosted_stage import HostedStage, PendingCommit
from framegate.pipeline.engine.inbox import Arrival, Inbox
from framegate.pipeline.store.connection import Command, Link
from framegate.pipeline.store.hop import (
    END,
    FRAME,
    CommitReply,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    read_attached,
    trim_command,
)
from framegate.pipeline.store.links import Links

log = logging.getLogger(__name__)

TRIM_EVERY = 64  # entries by which a stream grows between two calls that trim it
_END = END.encode()

CommitsOfSource = Sequence[tuple[HostedStage, PendingCommit]]
PendingCommits = dict[str, list[tuple[HostedStage, PendingCommit]]]
"""By source, what its stages say in this turn, inputs before readers."""
TellSources = Callable[[Sequence[SourceSpec]], None]


class Runner:
    """Hosted stages with their inboxes. One thread; the loops around it do the waiting."""

    def __init__(
        self,
        spec: WorkerSpec,
        hosted: list[HostedStage],
        line: ControlLine,
        tell_sources: TellSources,
        is_through: Callable[[str, str], None] = lambda source, stage: None,  # noqa: ARG005
    ) -> None:
        """tell_sources: called with each new set of sources, for what else keeps something of one;
        is_through: with a source and a stage that has passed its last end.
        """
        self.spec = spec
        self.hosted = hosted
        self.sources = {source.name: source for source in spec.sources}
        self.inboxes = {stage.spec.name: Inbox() for stage in hosted}
        self._onward = {
            s.spec.name: [r.spec.name for r in hosted if r.spec.input == s.spec.name]
            for s in hosted
        }
        passed_on = spec.passed_on()
        for one in hosted:
            one.is_read_here = bool(self._onward[one.spec.name])
            one.is_passed_on = one.spec.name in passed_on
        self._writers = {s.spec.name: spec.stage(s.spec.input or "") for s in hosted}
        self.stale: set[str] = set()
        self.done = 0
        self._line = line
        self._careful_until = dict(spec.careful)
        self.held_back = HeldBack(hosted)
        self._trimming = Trimming(spec)
        self._tell_sources, self._is_through = tell_sources, is_through
        self.fenced: set[str] = set()

    # -- which sources

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Serve these from now on, but those that other workers took; new ones must be attached."""
        wanted = {source.name: source for source in sources}
        for source in self.sources.keys() - wanted.keys():
            self._forget(source)
        self.fenced &= wanted.keys()
        self.sources = {name: wanted[name] for name in wanted if name not in self.fenced}
        self._tell_sources(sources)

    def _let_go(self, source: str) -> None:
        for stage in self.hosted:
            self.inboxes[stage.spec.name].clear(source)
            self.held_back.forget(source, stage.spec.name)

    def _forget(self, source: str) -> None:
        self._let_go(source)
        for stage in self.hosted:
            stage.forget(source)
        self._careful_until.pop(source, None)
        self._trimming.forget(source)
        self.stale.discard(source)

    # -- standing with the store

    def attach(self, links: Links, sources: Iterable[str]) -> None:
        """Take new tokens for these sources and load where their stages stand.

        A source that another run owns is dropped. StoreRefused if the store was emptied, StoreBusy
        while the tokens are not on the replicas that are asked for.
        """
        sources = list(sources)
        self.show_life()  # waiting for replicas is no hanging
        for source in sources:
            self._let_go(source)
            for stage in self.hosted:
                reply = links.of(source).call(
                    *attach_command(source, stage.spec.name, self.spec.run)
                )
                attached = read_attached(reply)
                if isinstance(attached, CommitStatus):
                    self.refused(source, attached)
                    break
                stage.attach(source, attached)
            else:
                self._catch_up(links, source)
            self.stale.discard(source)
        links.await_replicas((s for s in sources if s in self.sources), self.spec.replicas)

    def _catch_up(self, links: Links, source: str) -> None:
        """Give readers in this process what their input has said and they have not read."""
        for stage in self.hosted:
            if stage.spec.input in self.spec.hosted:
                after = stage.checkpoints[source].position
                stream = input_stream(self.spec, stage.spec.name, source)
                reply = links.of(source).call("XRANGE", stream, f"({after}", "+")
                self.receive(stage, source, reply, after)

    def refused(self, source: str, status: CommitStatus) -> None:
        """Take it that the store refuses what this worker says of a source."""
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
            # What waits follows a position that the store does not have: it is read again.
            self._let_go(source)
            self.stale.add(source)

    def check_tokens(self, link: Link, sources: Iterable[str]) -> None:
        """Drop those of a link's sources that another worker has attached to since.

        StoreRefused if the store was emptied.
        """
        places = [(s, stage) for stage in self.hosted for s in sources if s in self.sources]
        link.send(*(("HGET", keys.at(source, s.spec.name), "t") for source, s in places))
        tokens = [link.receive() for _ in places]
        for (source, stage), token in zip(places, tokens, strict=True):
            if source in self.sources and token != stage.checkpoints[source].token:
                self.refused(source, CommitStatus.FENCED if token else CommitStatus.GONE)

    # -- work

    def show_life(self) -> None:
        """Count as progress what is none to see: this worker does not hang."""
        self.done += 1

    def receive(
        self, stage: HostedStage, source: str, entries: list[list[Any]], after: Position
    ) -> Position:
        """Put stream entries after a position into a stage's inbox; gives the last one's."""
        writer = self._writers[stage.spec.name]
        arrivals = [read_entry(entry, writer) for entry in entries]
        if arrivals and not self._is_past(arrivals):
            arrivals = [arrived_now(arrival) for arrival in arrivals]
        if arrivals and arrivals[0].position <= after:
            arrivals = [arrival for arrival in arrivals if arrival.position > after]
        self.put(stage.spec.name, source, arrivals)
        return arrivals[-1].position if arrivals else after

    def put(self, stage: str, source: str, arrivals: Sequence[Arrival]) -> None:
        """Let these wait for a stage, in order of position.

        A camera's frame is seen at once, also behind one that awaits an answer: its own question
        goes out meanwhile. Of a file a heap waits, which is looked through once an answer.
        """
        self.inboxes[stage].add(source, arrivals)
        if arrivals and (source, stage) in self.held_back and self.sources[source].live:
            self.held_back.more_came(source, stage)

    def _is_past(self, arrivals: list[Arrival]) -> bool:
        """Return whether they arrived by this host's clock as it runs now, not before a restart."""
        last = arrivals[-1].record
        return not isinstance(last, Record) or last.arrived <= time.monotonic()

    def idle(self) -> bool:
        """Return whether nothing waits that could be done now."""
        return not any(
            (source, name) not in self.held_back
            for name, inbox in self.inboxes.items()
            for source in inbox.waiting()
        )

    def has_input(self) -> bool:
        """Return whether anything waits for a stage here, be it for what cannot be done now."""
        return any(inbox.waiting() for inbox in self.inboxes.values())

    def step(self) -> PendingCommits:
        """Run each stage on one batch of what waits for it; inputs before readers.

        While a source is careful, one stage only, the last that can: what is in hand is then one
        record in one stage, and it is committed before the next is taken.
        """
        pending: PendingCommits = {}
        for stage in reversed(self.hosted) if self._careful_until else self.hosted:
            inbox = self.inboxes[stage.spec.name]
            resting = self.held_back.resting(stage.spec.name) if self.held_back else ()
            batch = inbox.take(stage.stage.batch, self._careful_until, resting)
            if not batch:
                continue
            if self._careful_until:
                self._announce(stage, batch)
            for source, said in stage.answer(batch, self._is_patient).items():
                # What waits for an answer stays in hand: asking about it may be what kills.
                if said.undone or self.held_back:
                    inbox.give_back(source, said.undone)
                    self.held_back.note(source, stage.spec.name, said)
                if said.goes_on:
                    pending.setdefault(source, []).append((stage, said))
                    for onward in self._onward[stage.spec.name]:
                        self.put(onward, source, said.onward)
            self.done += 1
            if self._careful_until and pending:
                break
        for source, commits in pending.items():
            self._give_entries(commits, self.through(source, commits))
        return pending

    def through(
        self, source: str, pending: CommitsOfSource, stages: Iterable[HostedStage] = ()
    ) -> Position:
        """Where the last of these stages (none: of all here) will be once the store has taken what
        is pending of a source.

        A frame up to there goes through all of them in one write: whatever dies, nobody will ever
        read what one of them has told the next.
        """
        lasts = {stage.spec.name: said.commit.last for stage, said in pending}
        return min(
            lasts.get(stage.spec.name) or stage.checkpoints[source].position
            for stage in stages or self.hosted
        )

    def _give_entries(self, commits: CommitsOfSource, through: Position) -> None:
        """Have those that are passed on here stored that do not get through: a later hop, or who
        follows on this process, reads them. Ends are stored in any case.
        """
        for stage, said in commits:
            if stage.is_passed_on and (entries := entries_after(through, said.onward)):
                said.commit = msgspec.structs.replace(said.commit, entries=entries)

    def _announce(self, stage: HostedStage, batch: dict[str, list[Arrival]]) -> None:
        for source, arrivals in batch.items():
            at = arrivals[0].position
            if at <= self._careful_until.get(source, START):
                self._line.say(RecordInHand(source, stage.spec.name, at))

    def _is_patient(self, stage: str, source: str, position: Position) -> bool:
        """Return whether missing pixels will come: those of a file of this run are decoded again,
        and kept for readers that the decoder waits for.
        """
        spec = self.sources[source]
        return self.spec.stage(stage).reliable and not spec.live and position.epoch > spec.past

    def settle(
        self, source: str, pending: list[tuple[HostedStage, PendingCommit]], answer: CommitReply
    ) -> bool:
        """Take the store's answer to a source's commits; return whether it took them."""
        if answer.status is not CommitStatus.OK:
            self.refused(source, answer.status)
            return False
        if answer.refused:
            log.error("source %s: %d entries were there already", source, answer.refused)
        for stage, said in pending:
            stage.accept(source, said)
            if said.commit.previous < self._careful_until.get(source, START):
                self._line.say(RecordInHand(source, stage.spec.name, None))
                self._relax(source)
            entries = said.commit.entries
            self.wrote(source, stage.spec.name, len(entries))
            if entries and entries[-1].kind == END:
                end = records.decode_versioned(entries[-1].data, End)
                if end.last and said.commit.last.epoch > self.sources[source].past:
                    self._is_through(source, stage.spec.name)
                    self._line.say(EndPassed(source, stage.spec.name))
        return True

    def _relax(self, source: str) -> None:
        """Be careful with a source no longer once all its stages are past what was suspected."""
        until = self._careful_until[source]
        if all(stage.checkpoints[source].position > until for stage in self.hosted):
            del self._careful_until[source]

    def wrote(self, source: str, stage: str, entries: int) -> None:
        """Count what makes a stage's stream longer."""
        self._trimming.wrote(source, stage, entries)

    def let_all_be_trimmed(self) -> None:
        """Let the next calls of `trims` be about all streams."""
        self._trimming.all_are_due(self.sources)

    def trims(self, sources: Iterable[str]) -> list[tuple[str, Command]]:
        """Calls that remove what was read of these sources, with their source; now and then."""
        return self._trimming.commands(
            {name: source.live for name in sources if (source := self.sources.get(name))}
        )


class Trimming:
    """When to remove from streams what all of their readers have read: after TRIM_EVERY entries.

    Pure; counts how much longer the streams of one worker's stages became.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._hosted = spec.hosted
        self._untrimmed: dict[tuple[str, str], int] = {}
        self._due: set[tuple[str, str]] = set()
        self._readers = {
            (name, live): readers
            for name in spec.hosted
            for live in (False, True)
            if (readers := spec.readers(name, live)) and not spec.stage(name).publishes
        }
        # A restarted decoder learns from its own stream which pixels are still needed.
        if "decode" in spec.hosted:
            for live in (False, True):
                self._readers["decode", live] = spec.last_readers(live)
        self._read = {name for name, _ in self._readers}

    def wrote(self, source: str, stage: str, entries: int) -> None:
        """Count what makes a stage's stream longer."""
        longer = self._untrimmed.get((source, stage), 0) + entries
        self._untrimmed[source, stage] = longer
        if longer >= TRIM_EVERY and stage in self._read:
            self._due.add((source, stage))

    def all_are_due(self, sources: Iterable[str]) -> None:
        """Let all streams of these sources be trimmed."""
        self._due |= {(source, stage) for source in sources for stage in self._read}

    def forget(self, source: str) -> None:
        """Expect nothing of a source any more."""
        for stage in self._hosted:
            self._untrimmed.pop((source, stage), None)
            self._due.discard((source, stage))

    def commands(self, live: Mapping[str, bool]) -> list[tuple[str, Command]]:
        """The calls that are due for these sources, each with its source.

        live: by source, whether it is a camera
        """
        if not self._due:
            return []
        due = {place for place in self._due if place[0] in live}
        self._due -= due
        for place in due:
            self._untrimmed[place] = 0
        return [
            (source, trim_command(source, keys.out(source, stage), readers))
            for source, stage in due
            if (readers := self._readers.get((stage, live[source])))
        ]


def arrived_now(arrival: Arrival) -> Arrival:
    """The entry as if it arrived now: its own time is of another clock."""
    if not isinstance(arrival.record, Record):
        return arrival
    record = msgspec.structs.replace(arrival.record, arrived=time.monotonic(), taken_us=0)
    return Arrival(arrival.position, record)


def hops(pending: PendingCommits) -> dict[str, SourceHop]:
    """The hops that these commits make, by source."""
    return {
        source: SourceHop(source, tuple(said.commit for _, said in commits))
        for source, commits in pending.items()
    }


def entries_after(through: Position, arrivals: Iterable[Arrival]) -> tuple[Entry, ...]:
    """The entries of what comes after a position, and of ends."""
    return tuple(
        Entry(
            arrival.position,
            END if isinstance(arrival.record, End) else FRAME,
            arrival.data or records.encode(arrival.record),
        )
        for arrival in arrivals
        if arrival.position > through or isinstance(arrival.record, End)
    )


def read_entry(entry: list[Any], writer: StageSpec) -> Arrival:
    """A stream entry as it waits for a stage; results, and what side stages said, become records
    that carry them.
    """
    position = Position.parse(entry[0])
    _, kind, _, data = entry[1]  # k, d: in the order that hop.lua writes them
    if kind == _END:
        return Arrival(position, records.decode_versioned(data, End))
    if writer.publishes:
        return Arrival(position, results.record_of_result(data, writer.name))
    if not writer.main:
        side = records.decode_versioned(data, SideOutput)
        return Arrival(position, records.record_of_side_output(side, writer.name, position))
    return Arrival(position, records.decode_record(data), data)


def input_stream(spec: WorkerSpec, stage: str, source: str) -> str:
    """The stream that a stage reads."""
    before = spec.stage(stage).input
    assert before is not None
    return spec.stage(before).out(source)
