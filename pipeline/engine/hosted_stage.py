"""One stage in its process: run it on batches, and give its outputs to commits.

If a batch fails, each of its records runs alone, so that a bad record harms no other. A record that
fails alone is set aside and continues as `failed`. Each record that runs alone has a hop of its
own, because a stage relies on this: the state that it gets is the state that the store has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost, StageRefused
from framegate.pipeline.contracts.records import End, FailReason, Position, Record
from framegate.pipeline.contracts.results import check_results
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import (
    WAITS,
    Item,
    Stage,
    Waits,
    check_mapping,
    check_states,
)
from framegate.pipeline.engine.inbox import Arrival, Batch
from framegate.pipeline.engine.stage_commit import (
    Checkpoint,
    CommitBuilder,
    Failure,
    PendingCommit,
    StageOutput,
)
from framegate.pipeline.store.hop import Attached
from framegate.pipeline.telemetry.run_status import StageTimes
from framegate.pipeline.telemetry.spans import FrameSpans, StageWork

log = logging.getLogger(__name__)

Patience = Callable[[str, str, Position], bool]
"""(stage, source, position) -> whether to wait for the missing pixels of that frame."""


_LACKS = Failure("frame_lost", aside=False)


class HostedStage:
    """A stage with its checkpoint for each source. One thread.

    spans         of the frames that are traced; None: none is
    is_read_here  a stage of this process reads it; its published outputs pass on at once
    is_passed_on  only this process reads it; the runner decides which entries are stored
    """

    def __init__(
        self,
        spec: StageSpec,
        stage: Stage[Any],
        keep: int,
        asides: Mapping[tuple[str, Position], FailReason],
    ) -> None:
        """Host an open stage.

        keep    see Commit
        asides  records (source, position) that the stage must not try, with the reason
        """
        self.spec = spec
        self.stage = stage
        self.checkpoints: dict[str, Checkpoint] = {}
        counts = None
        if stage.asks is not None:
            counts = stage.asks.counts
        self.times = StageTimes(asks=counts, cache=stage.cache, footage=stage.footage)
        self.spans: FrameSpans | None = None
        self.is_read_here = False
        self.is_passed_on = False
        self._may_miss = spec.misses(live=True)
        self._keep = keep
        self._asides = asides
        # Sources of a batch that failed, with the last position of that batch: until they are past
        # it, their records run alone.
        self._singly: dict[str, Position] = {}

    def attach(self, source: str, attached: Attached) -> None:
        """Load the checkpoint of a source from the store's reply."""
        state: Any
        if attached.state:
            state = records.decode(attached.state, self.stage.State)
        else:
            state = self.stage.State()
        self.checkpoints[source] = Checkpoint(
            attached.token, attached.position, state, attached.emitted, attached.state
        )
        self._singly.pop(source, None)

    def forget(self, source: str) -> None:
        """Drop everything about a source that this process no longer serves."""
        self.checkpoints.pop(source, None)
        self._singly.pop(source, None)
        if self.stage.asks is not None:
            self.stage.asks.forget_source(source)

    def accept(self, source: str, pending: PendingCommit) -> None:
        """Advance a source's checkpoint: the store has the commit."""
        checkpoint = self.checkpoints[source]
        checkpoint.position = pending.commit.last
        checkpoint.state = pending.state
        checkpoint.emitted = pending.emitted
        checkpoint.stored = pending.stored
        if self._singly and checkpoint.position >= self._singly.get(source, checkpoint.position):
            self._singly.pop(source, None)

    def answer(self, batch: Batch, is_patient: Patience) -> dict[str, PendingCommit]:
        """Run the stage on a batch; return the pending commit of each source."""
        states = {}
        items = []
        for source, arrivals in batch.items():
            states[source] = self.checkpoints[source].state
            for arrival in arrivals:
                record = arrival.record
                if isinstance(record, Record) and self._is_given(source, arrival.position, record):
                    items.append(Item(source, arrival.position, record))
        if len(batch) > 1:
            items = by_arrival(items)
        began = time.monotonic()
        outputs, states = self._process(items, states, is_patient)
        ended = time.monotonic()
        self._note_times(items, began, ended)
        work = StageWork(self.spec, began, ended, len(items))
        pending = {}
        for source, arrivals in batch.items():
            outputs_of = outputs.get(source, [])
            pending[source] = self._pending(source, arrivals, outputs_of, states[source], work)
        return pending

    def _note_times(self, items: list[Item], began: float, ended: float) -> None:
        if not items:
            return
        # Only the first frame of a batch: noting each costs 2 % of the whole work for a frame.
        first = items[0].record
        if first.arrived:  # a published result, the input of a side stage, has no such time
            self.times.waited.add_us(int((began - first.arrived) * 1e6) - first.taken_us)
        self.times.worked.add_us(int((ended - began) * 1e6))
        self.times.frames += len(items)

    def _is_given(self, source: str, position: Position, record: Record) -> bool:
        """Return whether a record is given to the stage.

        It is not if it failed before, if the stage must not try it, or if it has no pixels to read.
        """
        if self._asides and (source, position) in self._asides:
            return False
        if record.failed is not None and not self.stage.takes_failed:
            return False
        return not record.undecoded or not self.stage.pixels or self.stage.takes_undecoded

    def _refusal(self, source: str, position: Position, record: Record) -> Failure | None:
        """Return why a record is not given to the stage; None: it skips the stage."""
        if (source, position) in self._asides:
            return Failure(self._asides[source, position], aside=True)
        if record.failed is not None and not self.stage.takes_failed:
            return Failure(record.failed, aside=False)
        return None

    def _process(
        self, items: list[Item], states: dict[str, Any], is_patient: Patience
    ) -> tuple[dict[str, list[StageOutput]], dict[str, Any]]:
        """Run the stage; return the outputs of each source, a prefix of its items, and all states.

        The items of sources in `_singly` run alone, all others in one call.
        """
        singly: list[Item] = []
        together = items
        if self._singly:
            singly = [item for item in items if item.source in self._singly]
            together = [item for item in items if item.source not in self._singly]
        outputs: dict[str, list[StageOutput]] = {}
        if together:
            try:
                called, after = self._call(together, states)
            except StageRefused:
                raise
            except Exception as error:
                level = logging.WARNING
                if isinstance(error, FrameLost):
                    level = logging.DEBUG
                log.log(
                    level,
                    "stage %s: a batch of %d frames failed, each runs alone: %r",
                    self.spec.name,
                    len(together),
                    error,
                )
                # No record of the batch was done and the bad one is not known.
                for item in together:
                    self._singly[item.source] = item.position
                singly = items
            else:
                for item, output in zip(together, called, strict=True):
                    outputs.setdefault(item.source, []).append(output)
                states = {**states, **after}
        if singly:
            states = self._one_by_one(singly, states, outputs, is_patient)
        return outputs, states

    def _call(
        self, items: list[Item], states: Mapping[str, Any]
    ) -> tuple[list[bytes | Waits | None], Mapping[str, Any]]:
        """Run the stage and encode its outputs; one that cannot be encoded fails the call.

        StageRefused if it publishes anything but results.
        """
        outputs, after = self.stage.process(items, states)
        check_mapping(after)
        if len(outputs) != len(items):
            raise ValueError(f"{len(outputs)} outputs for {len(items)} records")
        publishes = self.spec.publishes
        if publishes:
            self._check_results(outputs)
        encoded: list[bytes | Waits | None] = []
        for output in outputs:
            if not publishes and (output is None or output is WAITS):
                encoded.append(output)
            else:
                encoded.append(records.encode(output))
        return encoded, after

    def _one_by_one(
        self,
        items: list[Item],
        states: dict[str, Any],
        outputs: dict[str, list[StageOutput]],
        is_patient: Patience,
    ) -> dict[str, Any]:
        """Run items alone until each source has one output of the stage; return the states.

        Failures before that output are added too. The rest waits for the next hop: a stage writes
        its state plane into the buffer that the committed state does not name. A second frame
        before the commit would overwrite the buffer that the store may name by then.
        """
        finished: set[str] = set()
        for item in items:
            if item.source in finished:
                continue
            output: StageOutput
            try:
                called, after = self._call([item], states)
            except FrameLost as error:
                if not error.final and is_patient(self.spec.name, item.source, item.position):
                    finished.add(item.source)
                    continue
                log.warning("source %s frame %s: %s", item.source, item.position, error)
                output = Failure("frame_lost", aside=False)
            except StageRefused:
                raise
            except Exception:
                log.exception(
                    "stage %s fails on frame %s of source %s; the frame is set aside",
                    self.spec.name,
                    item.position,
                    item.source,
                )
                output = Failure("stage_error", aside=True)
            else:
                output = called[0]
                states = {**states, **after}
                finished.add(item.source)
            outputs.setdefault(item.source, []).append(output)
        return states

    def _pending(
        self,
        source: str,
        arrivals: list[Arrival],
        outputs: list[StageOutput],
        state: Any,
        work: StageWork,
    ) -> PendingCommit:
        checkpoint = self.checkpoints[source]
        builder = CommitBuilder(
            self.spec,
            source,
            checkpoint,
            state,
            work.ended,
            self.is_read_here,
            self.is_passed_on,
        )
        misses = self._may_miss and self.spec.misses(self.stage.context.live(source))
        # `outputs` has those of the first arrivals that were given to the stage, in their order.
        # The commit covers the arrivals before the first without an output.
        done = 0
        awaits = False
        last = checkpoint.position
        rest = iter(outputs)
        for arrival in arrivals:
            record = arrival.record
            output: StageOutput
            if isinstance(record, End):
                output = self._end_output(source, arrival.position, record, builder)
            elif self._is_given(source, arrival.position, record):
                output = next(rest, _LACKS)
            else:
                output = self._refusal(source, arrival.position, record)
            if output is WAITS:
                awaits = True
                break
            if output is _LACKS:
                break
            if isinstance(record, End):
                builder.end(arrival.position, record, output)
            else:
                builder.frame(arrival, record, output)
                if self.spans is not None and self.spans.sample.has(source, arrival.position):
                    self._add_span(self.spans, work, source, arrival, record, output)
            if misses:  # a gap may be anywhere: entries are read before the last batch is done
                missed = _missed(last, arrival, self.spec.reads_side)
                builder.count("lagged:" + self.spec.name, missed)
            last = arrival.position
            done += 1
        self._check_state(source, builder.state)
        return builder.finish(last, arrivals[done:], self._keep, awaits)

    def _check_results(self, outputs: Sequence[Any]) -> None:
        try:
            check_results(outputs)
        except TypeError as error:
            raise StageRefused(f"stage {self.spec.name}: {error}") from error

    def _check_state(self, source: str, state: Any) -> None:
        """Raise StageRefused if the state is not of the class that the store returns it as."""
        try:
            check_states(self.stage.State, {source: state})
        except TypeError as error:
            what = f"stage {self.spec.name}: its state cannot be stored: {error}"
            raise StageRefused(what) from error

    def _add_span(
        self,
        spans: FrameSpans,
        work: StageWork,
        source: str,
        arrival: Arrival,
        record: Record,
        output: StageOutput,
    ) -> None:
        result: bytes | str | None = None
        if isinstance(output, Failure):
            result = output.reason
        elif isinstance(output, bytes):
            result = output
        spans.add_work(work, source, arrival.position, record, result)

    def _end_output(
        self, source: str, position: Position, end: End, builder: CommitBuilder
    ) -> bytes | Waits | None:
        if (source, position) in self._asides:
            return None
        try:
            end = structs.replace(end, epoch=position.epoch)
            if end.away_s:
                output, state = self.stage.away(source, end, builder.state)
            else:
                output, state = self.stage.end(source, end, builder.state)
            if output is WAITS:
                return Waits.WAITS
            encoded: bytes | None = None
            if output is not None:
                encoded = records.encode(output)
        except Exception:
            log.exception("stage %s fails at the end of source %s", self.spec.name, source)
            return None
        builder.state = state
        return encoded


def by_arrival(items: list[Item]) -> list[Item]:
    """Return the items in order of arrival over all sources, those of a source in their order."""
    latest: dict[str, float] = {}
    keyed = []
    for item in items:
        latest[item.source] = max(item.record.arrived, latest.get(item.source, 0.0))
        keyed.append((latest[item.source], item))
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


def _missed(position: Position, arrival: Arrival, reads_side: bool) -> int:
    """Return the number of frames between a lossy reader's position and its next entry.

    Frames that the camera dropped are no part of it: they are counted where they were dropped.

    reads_side  the input is a side stage, which has no entry for most frames: an end counts none
    """
    if reads_side and isinstance(arrival.record, End):
        return 0
    before = arrival.position.seq - arrival.record.dropped
    if arrival.position.epoch == position.epoch:
        return max(0, before - position.seq - 1)
    return max(0, before)
