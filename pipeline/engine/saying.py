"""What a stage says about one source's part of a batch, gathered into one commit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from framegate.pipeline import records
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.errors import StageRefused
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
from framegate.pipeline.stage import Waits
from framegate.pipeline.store.hop import END, FRAME, Commit, Entry, SetAside
from framegate.pipeline.telemetry.counters import bucket, look_counters


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
