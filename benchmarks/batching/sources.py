"""Sources that ask one `Asks` for `benchmarks.batching`: so many in hand, or so many a second."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness.gate_clips import GateClip
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.asks import Asks

_LAST_S = 60.0  # for what is under way at the end


@dataclass(frozen=True)
class Asker:
    """How one source asks.

    in_hand     questions under way at once: a next one as soon as one is answered
    per_second  0: as fast as answers come; else at its own pace, whatever is under way
    scale       its frames are so many times as wide and as high as the clip's
    """

    name: str
    in_hand: int = 1
    per_second: float = 0.0
    scale: int = 1


@dataclass
class Told:
    """What came of one source's questions: seconds of each response, and how many had no answer."""

    responses_s: list[float] = field(default_factory=list)
    unanswered: int = 0


class Frames:
    """A clip's frames in memory; no two that are given out are equal."""

    def __init__(self, clip: Path, most: int = 60) -> None:
        shots = GateClip(clip.stem, "quiet", clip, 10**9, 0.0).shots()
        pictures = [shot.picture for shot in itertools.islice(shots, 0, 4 * most, 4)]
        first = pictures[0]
        self._matrix, self._full = first.matrix, first.full_range
        self._planes = [
            tuple(np.array(plane) for plane in (one.y, one.u, one.v)) for one in pictures
        ]
        self._given = 0

    def give(self, scale: int) -> tuple[Form, bytes]:
        """The next one. Its number is written into eight pixels: equal questions fly once."""
        planes = [
            plane.repeat(scale, 0).repeat(scale, 1) if scale > 1 else plane
            for plane in self._planes[self._given % len(self._planes)]
        ]
        self._given += 1
        height, width = planes[0].shape
        pixels = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
        form = Form(width, height, self._matrix, self._full)
        return form, self._given.to_bytes(8, "little") + pixels[8:]


def asked_by(
    askers: Sequence[Asker], asks: Asks, frames: Frames, seconds: float
) -> dict[str, Told]:
    """Let them ask for so long, and wait for what is then under way; by name."""
    told = {one.name: Told() for one in askers}
    turn = _Turn(asks, frames, told)
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        next_s = begun + seconds
        for asker in askers:
            next_s = min(next_s, turn.ask(asker, begun, now))
        turn.listen(next_s)
    until = time.monotonic() + _LAST_S
    while turn.waiting and time.monotonic() < until:
        turn.listen(until)
    if turn.waiting:
        raise RuntimeError(f"{len(turn.waiting)} questions have no end")
    return told


class _Turn:
    """What is under way. One thread, as `Asks` wants it."""

    def __init__(self, asks: Asks, frames: Frames, told: dict[str, Told]) -> None:
        self._asks, self._frames, self._told = asks, frames, told
        self._numbers = dict.fromkeys(told, 0)
        self.waiting: dict[QueryId, float] = {}

    def ask(self, asker: Asker, begun: float, now: float) -> float:
        """Put what this source has to ask by now; when it has more, as far as is known."""
        if asker.per_second:
            due = begun + self._numbers[asker.name] / asker.per_second
            if due > now:
                return due
            self._put(asker, due)
            return begun + self._numbers[asker.name] / asker.per_second
        under_way = sum(1 for one in self.waiting if one.source == asker.name)
        for _ in range(asker.in_hand - under_way):
            self._put(asker, time.monotonic())
        return float("inf")

    def _put(self, asker: Asker, due: float) -> None:
        form, pixels = self._frames.give(asker.scale)
        one = QueryId(asker.name, Position(1, self._numbers[asker.name]))
        self._numbers[asker.name] += 1
        self._asks.ask(Query(one, form, pixels))
        self.waiting[one] = due

    def listen(self, until: float) -> None:
        """Take what came; waits for it no longer than that."""
        select.select([self._asks], [], [], max(0.0, until - time.monotonic()))
        self._asks.hear()
        for one, asked in list(self.waiting.items()):
            if (answer := self._asks.answer(one)) is None:
                continue
            if isinstance(answer, Predictions):
                self._told[one.source].responses_s.append(time.monotonic() - asked)
            else:
                self._told[one.source].unanswered += 1
            self._asks.forget(one)
            del self.waiting[one]
