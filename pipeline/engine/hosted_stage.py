"""One stage in its process: run it on batches, gather what it says into commits.

A batch that fails is run again record by record, so that one bad record harms no other; a record
that fails alone is set aside and goes on as `failed`. Each of them has a hop of its own: a stage
may then count on it that the state it is given is the one that the store has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from framegate.pipeline.contracts import records, results
from framegate.pipeline.contracts.errors import FrameLost, StageRefused
from framegate.pipeline.contracts.records import End, FailReason, Position, Record
from framegate.pipeline.contracts.results import failed_result
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import WAITS, Item, Stage, Waits
from framegate.pipeline.engine.inbox import Arrival, Batch
from framegate.pipeline.store.hop import END, FRAME, Attached, Commit, Entry, SetAside
from framegate.pipeline.telemetry.counters import (
    StageTimes,
    bucket,
    last_counters,
    result_counters,
    side_counters,
)

log = logging.getLogger(__name__)

Patience = Callable[[str, str, Position], bool]
"""(stage, source, position) -> whether missing pixels of that frame are waited for."""


@dataclass(slots=True)
class Checkpoint:
    """Where a stage stands with a source, as the store has it.

    token    fences what it commits
    emitted  the last frame it gave an output for
    """

    token: bytes
    position: Position
    state: Any
    emitted: Position


class Failure(NamedTuple):
    """A stage has no answer for a record. aside: its bytes are kept, for who wants to know why."""

    reason: FailReason
    aside: bool


# None: nothing to say; on the main path: nothing to add
StageOutput = bytes | Failure | Waits | None


@dataclass(slots=True)
class PendingCommit:
    """What a stage says about a batch of one source, before the store has taken it.

    state, emitted  see Checkpoint, once the store has taken it
    onward          what the stage's readers in this process get
    undone          the rest of the batch, to be tried again
    awaits          the first of them waits for an answer of a heavier model
    """

    commit: Commit
    state: Any
    emitted: Position
    onward: list[Arrival] = field(default_factory=list)
    undone: list[Arrival] = field(default_factory=list)
    awaits: bool = False

    @property
    def goes_on(self) -> bool:
        """Return whether anything of the batch was done."""
        return self.commit.last > self.commit.previous

    @property
    def lacks_pixels(self) -> bool:
        """Return whether nothing was done as the pixels of the first frame are not there yet."""
        return bool(self.undone) and not self.awaits and not self.goes_on


_LACKS = Failure("frame_lost", aside=False)


class HostedStage:
    """A stage and where it stands with each of its sources. One thread."""

    def __init__(
        self,
        spec: StageSpec,
        stage: Stage[Any],
        keep: int,
        asides: Mapping[tuple[str, Position], FailReason],
    ) -> None:
        """keep: see Commit; asides: records (source, position) that it is not to try, and why."""
        self.spec = spec
        self.stage = stage
        self.checkpoints: dict[str, Checkpoint] = {}
        asks = stage.asks.counts if stage.asks is not None else None
        self.times = StageTimes(asks=asks, cache=stage.cache, footage=stage.footage)
        self.is_read_here = False  # by a stage of this process: it gets what is published at once
        self.is_passed_on = False  # nobody else reads it: who commits says what gets an entry
        self._keep = keep
        self._asides = asides
        self._singly: dict[str, Position] = {}  # sources of a batch that failed, up to its last

    def attach(self, source: str, attached: Attached) -> None:
        """Take the checkpoint that the store has."""
        kind = self.stage.State
        state = records.decode(attached.state, kind) if attached.state else kind()
        self.checkpoints[source] = Checkpoint(
            attached.token, attached.position, state, attached.emitted
        )
        self._singly.pop(source, None)

    def forget(self, source: str) -> None:
        """Keep nothing of a source, which others serve now, or nobody does."""
        self.checkpoints.pop(source, None)
        self._singly.pop(source, None)
        if self.stage.asks is not None:
            self.stage.asks.forget_source(source)

    def accept(self, source: str, pending: PendingCommit) -> None:
        """Move a source's checkpoint on: the store took the commit."""
        checkpoint = self.checkpoints[source]
        checkpoint.position, checkpoint.state = pending.commit.last, pending.state
        checkpoint.emitted = pending.emitted
        if self._singly and checkpoint.position >= self._singly.get(source, checkpoint.position):
            self._singly.pop(source, None)

    def answer(self, batch: Batch, is_patient: Patience) -> dict[str, PendingCommit]:
        """Run the stage on a batch; gives what is to be committed, by source."""
        states = {source: self.checkpoints[source].state for source in batch}
        items = [
            Item(source, arrival.position, arrival.record)
            for source, arrivals in batch.items()
            for arrival in arrivals
            if isinstance(arrival.record, Record) and self._refusal(source, arrival) is None
        ]
        if len(batch) > 1:
            items = by_arrival(items)
        began = time.monotonic()
        outputs, states = self._process(items, states, is_patient)
        ended = time.monotonic()
        self._note_times(items, began, ended)
        return {
            source: self._pending(source, arrivals, outputs.get(source, []), states[source], ended)
            for source, arrivals in batch.items()
        }

    def _note_times(self, items: list[Item], began: float, ended: float) -> None:
        if not items:
            return
        first = items[0].record  # one look a batch: a look at each frame costs 2 % of all we do
        if first.arrived:  # a published result, read by a side stage, has no such time
            self.times.waited.add_us(int((began - first.arrived) * 1e6) - first.taken_us)
        self.times.worked.add_us(int((ended - began) * 1e6))
        self.times.frames += len(items)

    def was_set_aside(self, source: str, position: Position) -> bool:
        """Return whether the stage is not to try the record there."""
        return (source, position) in self._asides

    def _refusal(self, source: str, arrival: Arrival) -> Failure | None:
        """Why a frame is not given to the stage at all."""
        if self._asides and (source, arrival.position) in self._asides:
            return Failure(self._asides[source, arrival.position], aside=True)
        failed = arrival.record.failed if isinstance(arrival.record, Record) else None
        if failed is not None and not self.stage.takes_failed:
            return Failure(failed, aside=False)
        return None

    def _process(
        self, items: list[Item], states: dict[str, Any], is_patient: Patience
    ) -> tuple[dict[str, list[StageOutput]], dict[str, Any]]:
        """Run the stage; gives each source's outputs, as far as they go, and its new state."""
        singly = [item for item in items if item.source in self._singly]
        together = [item for item in items if item.source not in self._singly]
        outputs: dict[str, list[StageOutput]] = {source: [] for source in states}
        try:
            said, after = self._call(together, states) if together else ([], {})
        except Exception as error:
            level = logging.DEBUG if isinstance(error, FrameLost) else logging.WARNING
            log.log(level, "stage %s: %r on a batch of %d", self.spec.name, error, len(together))
            # Nothing of the batch was done, so all of it is tried again; which of its records was
            # the bad one is not known, so each source goes singly until it is past this batch.
            self._singly |= {item.source: item.position for item in together}
            singly, said, after, together = items, [], {}, []
        for item, output in zip(together, said, strict=True):
            outputs[item.source].append(output)
        states = {**states, **after}
        return outputs, self._one_by_one(singly, states, outputs, is_patient)

    def _call(
        self, items: list[Item], states: Mapping[str, Any]
    ) -> tuple[list[bytes | Waits | None], Mapping[str, Any]]:
        outputs, after = self.stage.process(items, states)
        if len(outputs) != len(items):
            raise ValueError(f"{len(outputs)} outputs for {len(items)} records")
        # Bytes from here on: what cannot be encoded fails here, with its record.
        if self.spec.publishes:
            return [records.encode(o) for o in outputs], after
        return [o if o is None or o is WAITS else records.encode(o) for o in outputs], after

    def _one_by_one(
        self,
        items: list[Item],
        states: dict[str, Any],
        outputs: dict[str, list[StageOutput]],
        is_patient: Patience,
    ) -> dict[str, Any]:
        """Add one answer of each source to `outputs`, after failures if need be; gives new states.

        The rest waits for the next hop. A stage writes its state plane into the buffer that the
        committed state does not name; for a second frame before the commit of the first it would
        take that of the first, to which the store may point by then.
        """
        through: set[str] = set()
        for item in items:
            if item.source in through:
                continue
            output: StageOutput
            try:
                said, after = self._call([item], states)
            except FrameLost as error:
                if not error.final and is_patient(self.spec.name, item.source, item.position):
                    through.add(item.source)
                    continue
                log.warning("source %s frame %s: %s", item.source, item.position, error)
                output = Failure("frame_lost", aside=False)
            except Exception:
                where = (self.spec.name, item.position, item.source)
                log.exception("stage %s cannot do frame %s of source %s: set aside", *where)
                output = Failure("stage_error", aside=True)
            else:
                output, states = said[0], {**states, **after}
                through.add(item.source)
            outputs[item.source].append(output)
        return states

    def _pending(
        self,
        source: str,
        arrivals: list[Arrival],
        outputs: list[StageOutput],
        state: Any,
        ended: float,
    ) -> PendingCommit:
        built = CommitBuilder(
            self.spec,
            source,
            self.checkpoints[source],
            state,
            ended,
            self.is_read_here,
            self.is_passed_on,
        )
        if self.spec.misses(self.stage.context.live(source)):
            missed = _missed(self.checkpoints[source].position, arrivals[0], self.spec.reads_side)
            built.count("lagged:" + self.spec.name, missed)
        done = 0
        rest = iter(outputs)
        for arrival in arrivals:
            record = arrival.record
            output: StageOutput
            if isinstance(record, End):
                output = self._last_words(source, arrival, built)
                if output is WAITS:
                    break
                built.end(arrival.position, record, output)
            else:
                output = self._refusal(source, arrival) or next(rest, _LACKS)
                if output is _LACKS or output is WAITS:
                    break
                built.frame(arrival, record, output)
            done += 1
        last = arrivals[done - 1].position if done else None
        return built.finish(
            last, arrivals[done:], self._keep, done < len(arrivals) and output is WAITS
        )

    def _last_words(
        self, source: str, arrival: Arrival, built: CommitBuilder
    ) -> msgspec.Raw | Waits | None:
        if self.was_set_aside(source, arrival.position) or not isinstance(arrival.record, End):
            return None
        try:
            end = structs.replace(arrival.record, epoch=arrival.position.epoch)
            say = self.stage.away if end.away_s else self.stage.end
            output, state = say(source, end, built.state)
            if output is WAITS:
                return Waits.WAITS
            words = None if output is None else msgspec.Raw(records.encode(output))
        except Exception:
            log.exception("stage %s cannot do the end of source %s", self.spec.name, source)
            return None
        built.state = state
        return words


class CommitBuilder:
    """Gathers what a stage says about one source's part of a batch into a commit."""

    def __init__(
        self,
        spec: StageSpec,
        source: str,
        checkpoint: Checkpoint,
        state: Any,
        ended: float,
        is_read_here: bool = False,
        is_passed_on: bool = False,
    ) -> None:
        """ended: when the stage was done with the batch, by the monotonic clock; is_read_here,
        is_passed_on: see HostedStage.
        """
        self._spec, self._source, self._checkpoint = spec, source, checkpoint
        self._ended, self._is_read_here = ended, is_read_here
        self._is_passed_on = is_passed_on
        self.state = state
        self._emitted = checkpoint.emitted
        self._entries: list[Entry] = []
        self._onward: list[Arrival] = []
        self._asides: list[SetAside] = []
        self._counts: dict[str, int] = {}

    def count(self, name: str, growth: int = 1) -> None:
        """Let a counter of the source grow with this commit."""
        if growth:
            self._counts[name] = self._counts.get(name, 0) + growth

    def frame(self, arrival: Arrival, record: Record, output: StageOutput) -> None:
        """Add a frame: its record as the stage gets it, and the stage's answer."""
        spec, position = self._spec, arrival.position
        if isinstance(output, Failure):
            if output.aside:
                data = records.encode(record)
                self._asides.append(SetAside(spec.name, position, output.reason, data))
            record = records.with_failure(record, output.reason)
        if spec.publishes:
            self._publish(position, record, output)
        elif spec.main:
            if isinstance(output, bytes):
                record = records.with_said(record, spec.name, output, self._ended)
            known = arrival.data if record is arrival.record else None
            if not self._is_passed_on:
                known = known or records.encode(record)
                self._entries.append(Entry(position, FRAME, known))
            self._onward.append(Arrival(position, record, known))
        elif isinstance(output, bytes):
            side = records.side_output(record, self._emitted, msgspec.Raw(output))
            self._entries.append(Entry(position, FRAME, records.encode(side)))
            read = records.record_of_side_output(side, spec.name, position)
            self._onward.append(Arrival(position, read))
            self._emitted = position
            for name, growth in side_counters(spec.name, output).items():
                self.count(name, growth)

    def _publish(self, position: Position, record: Record, output: StageOutput) -> None:
        if not isinstance(output, bytes):
            output = records.encode(failed_result(self._source, position, record, time.time()))
        self._entries.append(Entry(position, FRAME, output))
        if self._is_read_here:
            read = results.record_of_result(output, self._spec.name)
            self._onward.append(Arrival(position, read))
        self.count("published")
        for name in result_counters(output):
            self.count(name)
        if record.failed is not None:
            self.count("failed")
        self.count(bucket(time.monotonic() - record.arrived))

    def end(self, position: Position, end: End, said: msgspec.Raw | None) -> None:
        """Add the end of an epoch, with what the stage had left to say."""
        if said is not None:
            end = msgspec.structs.replace(end, said={**end.said, self._spec.name: said})
            for name in last_counters(said) if self._spec.publishes else ():
                self.count(name)
        if not self._is_passed_on:
            self._entries.append(Entry(position, END, records.encode(end)))
        self._onward.append(Arrival(position, end))

    def finish(
        self, last: Position | None, undone: list[Arrival], keep: int, awaits: bool = False
    ) -> PendingCommit:
        """Make the commit, up to `last` (None: nothing was done).

        StageRefused if the state cannot be stored.
        """
        checkpoint = self._checkpoint
        commit = Commit(
            stage=self._spec.name,
            out=self._spec.out(self._source),
            token=checkpoint.token,
            previous=checkpoint.position,
            last=last or checkpoint.position,
            entries=tuple(self._entries),
            fields=self._fields(),
            counts=tuple(self._counts.items()),
            asides=tuple(self._asides),
            keep=keep,
        )
        return PendingCommit(commit, self.state, self._emitted, self._onward, undone, awaits)

    def _fields(self) -> tuple[tuple[str, bytes], ...]:
        try:
            state = ("s", records.encode(self.state))
        except TypeError as error:
            what = f"stage {self._spec.name}: its state cannot be stored: {error}"
            raise StageRefused(what) from error
        if self._emitted == self._checkpoint.emitted:
            return (state,)
        return (state, ("e", str(self._emitted).encode()))


def by_arrival(items: list[Item]) -> list[Item]:
    """Order items by arrival over all sources; within a source the order stays as it is."""
    latest: dict[str, float] = {}
    keyed = []
    for item in items:
        latest[item.source] = max(item.record.arrived, latest.get(item.source, 0.0))
        keyed.append((latest[item.source], item))
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


def _missed(position: Position, arrival: Arrival, reads_side: bool) -> int:
    """Frames between a lossy reader's position and the next entry that it still found.

    reads_side  an end does not tell how many frames were said nothing of: none counts
    """
    if reads_side and isinstance(arrival.record, End):
        return 0
    dropped = arrival.record.dropped if isinstance(arrival.record, Record) else 0
    before = arrival.position.seq - dropped
    if arrival.position.epoch == position.epoch:
        return max(0, before - position.seq - 1)
    return max(0, before)
