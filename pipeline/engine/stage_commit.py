"""The commit of a stage: the outputs for a batch of one source, gathered for one hop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from framegate.pipeline.contracts import records, results
from framegate.pipeline.contracts.errors import StageRefused
from framegate.pipeline.contracts.records import End, FailReason, Position, Record
from framegate.pipeline.contracts.results import failed_result
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import Waits
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.store.hop import END, FRAME, Commit, Entry, SetAside
from framegate.pipeline.telemetry.counters import last_counters, result_counters, side_counters
from framegate.pipeline.telemetry.histograms import bucket


@dataclass(slots=True)
class Checkpoint:
    """A stage's progress with a source, as the store has it.

    token    fencing token of its commits
    emitted  the last frame with an output
    stored   the state as the store has it; None before the first commit
    """

    token: bytes
    position: Position
    state: Any
    emitted: Position
    stored: bytes | None


class Failure(NamedTuple):
    """A stage has no output for a record. aside: the record's bytes are kept for inspection."""

    reason: FailReason
    aside: bool


# None: no output; on the main path the record continues unchanged
StageOutput = bytes | Failure | Waits | None


@dataclass(slots=True)
class PendingCommit:
    """The outputs of a stage for a batch of one source, before the store has them.

    state, emitted, stored  those of the checkpoint after the commit
    onward          input of the stage's readers in this process
    undone          the rest of the batch, which runs again
    awaits          the first record of `undone` waits for the answer of a heavier model
    """

    commit: Commit
    state: Any
    emitted: Position
    stored: bytes
    onward: list[Arrival]
    undone: list[Arrival]
    awaits: bool

    @property
    def has_progress(self) -> bool:
        """Return whether any record of the batch was done."""
        return self.commit.last > self.commit.previous

    @property
    def lacks_pixels(self) -> bool:
        """Return whether no record was done because the first one's pixels are missing."""
        return bool(self.undone) and not self.awaits and not self.has_progress


class CommitBuilder:
    """The commit of a stage for one source's part of a batch, as it grows.

    state  the stage's state after the arrivals that were added
    """

    def __init__(
        self,
        spec: StageSpec,
        source: str,
        checkpoint: Checkpoint,
        state: Any,
        ended: float,
        is_read_here: bool,
        is_passed_on: bool,
    ) -> None:
        """Begin a commit after `checkpoint`.

        ended                       monotonic time at which the stage finished the batch
        is_read_here, is_passed_on  see HostedStage
        """
        self._spec = spec
        self._source = source
        self._checkpoint = checkpoint
        self._ended = ended
        self._is_read_here = is_read_here
        self._is_passed_on = is_passed_on
        self.state = state
        self._emitted = checkpoint.emitted
        self._entries: list[Entry] = []
        self._onward: list[Arrival] = []
        self._asides: list[SetAside] = []
        self._counts: dict[str, int] = {}

    def count(self, name: str, growth: int = 1) -> None:
        """Increment a counter of the source with this commit."""
        if growth:
            self._counts[name] = self._counts.get(name, 0) + growth

    def frame(self, arrival: Arrival, record: Record, output: StageOutput) -> None:
        """Add a frame: its record as the stage got it, and the stage's output."""
        spec = self._spec
        position = arrival.position
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
            known = None
            if record is arrival.record:
                known = arrival.data
            if not self._is_passed_on:
                known = known or records.encode(record)
                self._entries.append(Entry(position, FRAME, known))
            self._onward.append(Arrival(position, record, known))
        elif isinstance(output, bytes):
            side = records.side_output(record, self._emitted, msgspec.Raw(output))
            self._entries.append(Entry(position, FRAME, records.encode(side)))
            onward = records.record_of_side_output(side, spec.name, position)
            self._onward.append(Arrival(position, onward))
            self._emitted = position
            for name, growth in side_counters(spec.name, output).items():
                self.count(name, growth)

    def _publish(self, position: Position, record: Record, output: StageOutput) -> None:
        if not isinstance(output, bytes):
            output = records.encode(failed_result(self._source, position, record, time.time()))
        self._entries.append(Entry(position, FRAME, output))
        if self._is_read_here:
            onward = results.record_of_result(output, self._spec.name)
            self._onward.append(Arrival(position, onward))
        self.count("published")
        for name in result_counters(output):
            self.count(name)
        if record.failed is not None:
            self.count("failed")
        self.count(bucket(time.monotonic() - record.arrived))

    def end(self, position: Position, end: End, output: StageOutput) -> None:
        """Add the end of an epoch, and the stage's output for it."""
        if isinstance(output, bytes):
            raw = msgspec.Raw(output)
            end = msgspec.structs.replace(end, said={**end.said, self._spec.name: raw})
            if self._spec.publishes:
                for name in last_counters(output):
                    self.count(name)
        if not self._is_passed_on:
            self._entries.append(Entry(position, END, records.encode(end)))
        self._onward.append(Arrival(position, end))

    def finish(
        self, last: Position, undone: list[Arrival], keep: int, awaits: bool
    ) -> PendingCommit:
        """Return the commit, up to `last`; the other arguments are those of PendingCommit.

        Raises StageRefused if the state cannot be stored.
        """
        checkpoint = self._checkpoint
        stored = self._encoded_state()
        commit = Commit(
            stage=self._spec.name,
            out=self._spec.out(self._source),
            token=checkpoint.token,
            previous=checkpoint.position,
            last=last,
            entries=tuple(self._entries),
            fields=self._fields(stored),
            counts=tuple(self._counts.items()),
            asides=tuple(self._asides),
            keep=keep,
        )
        return PendingCommit(
            commit, self.state, self._emitted, stored, self._onward, undone, awaits
        )

    def _encoded_state(self) -> bytes:
        try:
            return records.encode(self.state)
        except TypeError as error:
            what = f"stage {self._spec.name}: its state cannot be stored: {error}"
            raise StageRefused(what) from error

    def _fields(self, stored: bytes) -> tuple[tuple[str, bytes], ...]:
        """Return the fields that change with this commit."""
        fields: list[tuple[str, bytes]] = []
        if stored != self._checkpoint.stored:
            fields.append(("s", stored))
        if self._emitted != self._checkpoint.emitted:
            fields.append(("e", str(self._emitted).encode()))
        return tuple(fields)
