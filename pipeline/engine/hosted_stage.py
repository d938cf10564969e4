"""One stage in its process: runs it on batches, keeps its standings, writes its commits.

A batch that fails is run again record by record, so that one bad record harms no other; a record
that fails alone is set aside and goes on as `failed`. Each of them has a hop of its own: a stage
may then count on it that the state it is given is the one that the store has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import structs

from framegate.pipeline import records
from framegate.pipeline.engine.inbox import Arrival, Batch
from framegate.pipeline.engine.saying import Failure, Move, Output, Saying, Standing
from framegate.pipeline.errors import FrameLost
from framegate.pipeline.records import End, Position, Reason, Record
from framegate.pipeline.spec import StageSpec
from framegate.pipeline.stage import WAITS, Item, Stage, Waits
from framegate.pipeline.store.hop import Attached
from framegate.pipeline.telemetry.counters import StageTimes

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
