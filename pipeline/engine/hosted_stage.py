"""One stage in its process: run on batches; what it says is gathered into commits.

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

from framegate.pipeline import records
from framegate.pipeline.engine.inbox import Arrival, Batch
from framegate.pipeline.errors import FrameLost, StageRefused
from framegate.pipeline.records import (
    VERSION,
    End,
    Position,
    Reason,
    Record,
    SideOutput,
    failed_result,
)
from framegate.pipeline.spec import StageSpec
from framegate.pipeline.stage import WAITS, Item, Stage, Waits
from framegate.pipeline.store.hop import END, FRAME, Attached, Commit, Entry, SetAside
from framegate.pipeline.telemetry.counters import StageTimes, bucket, look_counters

# -- What a stage says about one source's part of a batch, gathered into one commit.


@dataclass(slots=True)
class Standing:
    """Where a stage stands with a source; `emitted` is the last frame it gave an output for."""

    token: bytes
    position: Position
    state: Any
    emitted: Position


class Failure(NamedTuple):
    """A stage has no answer for a record."""

    reason: Reason
    aside: bool


Output = bytes | Failure | Waits | None  # None: nothing to say; on the main path: nothing to add


@dataclass(slots=True)
class Move:
    """What a stage says about a batch of one source, before the store has taken it.

    onward  what its readers in this process get
    undone  what must wait: where nothing was done, the pixels of its first frame are not there yet
    awaits  it waits for an answer instead
    """

    commit: Commit
    state: Any
    emitted: Position
    onward: list[Arrival] = field(default_factory=list)
    undone: list[Arrival] = field(default_factory=list)
    awaits: bool = False


class Saying:
    """Gathers what a stage says about one source's part of a batch."""

    def __init__(
        self, spec: StageSpec, source: str, standing: Standing, state: Any, ended: float
    ) -> None:
        """ended: when the stage was done with the batch, by the monotonic clock."""
        self._spec, self._source, self._standing = spec, source, standing
        self._ended = ended
        self.state = state
        self._emitted = standing.emitted
        self._entries: list[Entry] = []
        self._onward: list[Arrival] = []
        self._asides: list[SetAside] = []
        self._counts: dict[str, int] = {}

    def count(self, name: str, growth: int = 1) -> None:
        """Let a counter of the source grow with this commit."""
        if growth:
            self._counts[name] = self._counts.get(name, 0) + growth

    def frame(self, arrival: Arrival, record: Record, output: Output) -> None:
        """A frame with its record, and the stage's answer to it."""
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
            data = known or records.encode(record)
            self._entries.append(Entry(position, FRAME, data))
            self._onward.append(Arrival(position, record, data))
        elif isinstance(output, bytes):
            side = SideOutput(VERSION, str(self._emitted), msgspec.Raw(output))
            self._entries.append(Entry(position, FRAME, records.encode(side)))
            self._emitted = position

    def _publish(self, position: Position, record: Record, output: Output) -> None:
        if not isinstance(output, bytes):
            output = records.encode(failed_result(self._source, position, record, time.time()))
        self._entries.append(Entry(position, FRAME, output))
        self.count("published")
        for name in look_counters(output):
            self.count(name)
        if record.failed is not None:
            self.count("failed")
        self.count(bucket(time.monotonic() - record.arrived))

    def end(self, position: Position, end: End, said: msgspec.Raw | None) -> None:
        """The end of an epoch, with what the stage had left to say."""
        if said is not None:
            end = msgspec.structs.replace(end, said={**end.said, self._spec.name: said})
        self._entries.append(Entry(position, END, records.encode(end)))
        self._onward.append(Arrival(position, end))

    def move(
        self, last: Position | None, undone: list[Arrival], keep: int, awaits: bool = False
    ) -> Move:
        """All of it as a commit up to `last`; StageRefused if the state cannot be stored."""
        standing = self._standing
        commit = Commit(
            stage=self._spec.name,
            out=self._spec.out(self._source),
            token=standing.token,
            previous=standing.position,
            last=last or standing.position,
            entries=tuple(self._entries),
            fields=self._fields(),
            counts=tuple(self._counts.items()),
            asides=tuple(self._asides),
            keep=keep,
        )
        return Move(commit, self.state, self._emitted, self._onward, undone, awaits)

    def _fields(self) -> tuple[tuple[str, bytes], ...]:
        try:
            state = ("s", records.encode(self.state))
        except TypeError as error:
            what = f"stage {self._spec.name}: its state cannot be stored: {error}"
            raise StageRefused(what) from error
        if self._emitted == self._standing.emitted:
            return (state,)
        return (state, ("e", str(self._emitted).encode()))


log = logging.getLogger(__name__)

Patience = Callable[[str, str, Position], bool]  # of a stage, for a source's frame

_LACKS = Failure("frame_lost", aside=False)


class HostedStage:
    """A stage and where it stands with each of its sources. One thread."""

    def __init__(
        self,
        spec: StageSpec,
        stage: Stage[Any],
        keep: int,
        asides: Mapping[tuple[str, Position], Reason],
    ) -> None:
        self.spec = spec
        self.stage = stage
        self.standings: dict[str, Standing] = {}
        asks = stage.asks.counts if stage.asks is not None else None
        self.times = StageTimes(asks=asks, cache=stage.cache)
        self._keep = keep
        self._asides = asides
        self._singly: dict[str, Position] = {}  # sources of a batch that failed, up to its last

    def attach(self, source: str, attached: Attached) -> None:
        """Take the standing that the store has."""
        kind = self.stage.State
        state = records.decode(attached.state, kind) if attached.state else kind()
        self.standings[source] = Standing(
            attached.token, attached.position, state, attached.emitted
        )
        self._singly.pop(source, None)

    def forget(self, source: str) -> None:
        """It is served by others now, or by nobody."""
        self.standings.pop(source, None)
        self._singly.pop(source, None)
        if self.stage.asks is not None:
            self.stage.asks.forget_source(source)

    def accept(self, source: str, move: Move) -> None:
        """The store took the move."""
        standing = self.standings[source]
        standing.position, standing.state = move.commit.last, move.state
        standing.emitted = move.emitted
        if self._singly and standing.position >= self._singly.get(source, standing.position):
            self._singly.pop(source, None)

    def answer(self, batch: Batch, is_patient: Patience) -> dict[str, Move]:
        """Run the stage on a batch; a frame without pixels waits while `is_patient`."""
        states = {source: self.standings[source].state for source in batch}
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
            source: self._move(source, arrivals, outputs.get(source, []), states[source], ended)
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
        """Whether it is not to try what stands there."""
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
    ) -> tuple[dict[str, list[Output]], dict[str, Any]]:
        """Outputs of each source in its order, as far as they go; its new state."""
        singly = [item for item in items if item.source in self._singly]
        together = [item for item in items if item.source not in self._singly]
        outputs: dict[str, list[Output]] = {source: [] for source in states}
        try:
            said, after = self._call(together, states) if together else ([], {})
        except Exception as error:
            level = logging.DEBUG if isinstance(error, FrameLost) else logging.WARNING
            log.log(level, "stage %s: %r on a batch of %d", self.spec.name, error, len(together))
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
        outputs: dict[str, list[Output]],
        is_patient: Patience,
    ) -> dict[str, Any]:
        """Add one answer of each source to `outputs`, after failures if need be; its new state.

        The rest waits for the next hop: a stage that writes its state plane for a second frame
        writes over what it said of the first, which the store may have by then.
        """
        through: set[str] = set()
        for item in items:
            if item.source in through:
                continue
            output: Output
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

    def _move(
        self,
        source: str,
        arrivals: list[Arrival],
        outputs: list[Output],
        state: Any,
        ended: float,
    ) -> Move:
        said = Saying(self.spec, source, self.standings[source], state, ended)
        if not self.spec.reliable:
            said.count(
                "lagged:" + self.spec.name, _missed(self.standings[source].position, arrivals[0])
            )
        done = 0
        rest = iter(outputs)
        for arrival in arrivals:
            record = arrival.record
            output: Output
            if isinstance(record, End):
                output = self._last_words(source, arrival, said)
                if output is WAITS:
                    break
                said.end(arrival.position, record, output)
            else:
                output = self._refusal(source, arrival) or next(rest, _LACKS)
                if output is _LACKS or output is WAITS:
                    break
                said.frame(arrival, record, output)
            done += 1
        last = arrivals[done - 1].position if done else None
        return said.move(
            last, arrivals[done:], self._keep, done < len(arrivals) and output is WAITS
        )

    def _last_words(
        self, source: str, arrival: Arrival, said: Saying
    ) -> msgspec.Raw | Waits | None:
        if self.was_set_aside(source, arrival.position) or not isinstance(arrival.record, End):
            return None
        try:
            end = structs.replace(arrival.record, epoch=arrival.position.epoch)
            output, state = self.stage.end(source, end, said.state)
            if output is WAITS:
                return Waits.WAITS
            words = None if output is None else msgspec.Raw(records.encode(output))
        except Exception:
            log.exception("stage %s cannot do the end of source %s", self.spec.name, source)
            return None
        said.state = state
        return words


def by_arrival(items: list[Item]) -> list[Item]:
    """Earliest arrival first over all sources; within a source the order stays as it is."""
    latest: dict[str, float] = {}
    keyed = []
    for item in items:
        latest[item.source] = max(item.record.arrived, latest.get(item.source, 0.0))
        keyed.append((latest[item.source], item))
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


def _missed(position: Position, arrival: Arrival) -> int:
    """Frames between a lossy reader's position and the next entry that it still found."""
    dropped = arrival.record.dropped if isinstance(arrival.record, Record) else 0
    before = arrival.position.seq - dropped
    if arrival.position.epoch == position.epoch:
        return max(0, before - position.seq - 1)
    return max(0, before)
