"""A place that says what a test says, when it says so."""

from __future__ import annotations

import functools
import select
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.queries import PlaceFailed, Predictions, Query, QueryId
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import WAITS, Item, Waits
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.shared_memory.state import StateRing, unshared_ring
from framegate.stages.detections import Detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.options import NO_PROMISE, EscalateOptions, StageOptions
from framegate.stages.escalate.policy import EscalateState

FORM = Form(32, 16)
FPS = 10
PERSON = Object(1, "person", 0, 0.9, (1.0, 2.0, 9.0, 14.0), "detected")
SEES_NOBODY = Predictions((), (), (), ("heavy@1",))
SEES_PERSON = Predictions((PERSON.box,), (0.8,), (0,), ("heavy@1",))
NEVER = 1.01  # a threshold of doubt above all
NEW: Mapping[str, EscalateState] = {"a": EscalateState()}

TeacherLabels = Callable[[QueryId], Predictions]


def agrees(question: QueryId) -> Predictions:  # noqa: ARG001
    """With detect, in every frame."""
    return SEES_PERSON


class ToldPlace:
    """Answers what `says` gives, at once or once `let_go` was called; it may be away."""

    lanes, most = 1, 1
    sent_bytes, wire_s = 0, 0.0

    def __init__(self, says: TeacherLabels, holds: bool = False, is_exact: bool = True) -> None:
        self.asked: list[QueryId] = []
        self.is_exact = is_exact
        self.is_away = False
        self._says = says
        self._open = threading.Event()
        if not holds:
            self._open.set()

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        self.asked += [question.id for question in questions]
        self._open.wait()
        if self.is_away:
            raise PlaceFailed("away")
        return [self._says(question.id) for question in questions]

    def let_go(self) -> None:
        """Answer from now on."""
        self._open.set()

    def close(self) -> None:
        self._open.set()


def frame(seq: int, source: str = "a", arrived: float = 0.0, epoch: int = 1) -> Item:
    """A frame in which detect saw one person."""
    found = Detections("detected", "whole", "every_frame", (PERSON,), ("light@1",))
    said = {"detect": msgspec.Raw(records.encode(found))}
    record = Record(
        v=1, pts=seq / FPS, captured=0.0, arrived=arrived, number=seq, form=FORM, said=said
    )
    return Item(source, Position(epoch, seq), record)


@contextmanager
def pixels(item: Item) -> Iterator[memoryview]:
    """Other bytes for each frame; those of a negative number are gone."""
    if item.record.number < 0:
        raise FrameLost("gone", final=item.record.number < -1)
    yield memoryview(item.record.number.to_bytes(4, "little") * (FORM.nbytes // 4))


Ring = Callable[[str, int, int], StateRing]


def rings() -> Ring:
    """State rings that outlive the stages that use them, as a run's do."""
    return functools.cache(unshared_ring)


def escalate(
    folder: Path,
    place: ToldPlace,
    promise: Promise | None = None,
    ring: Ring | None = None,
    live: bool = False,
    past: int = 0,
    tells: bool = False,
    filters: Callable[[], Mapping[str, ObjectFilter]] = dict,
    wake: Callable[[str], None] = lambda source: None,  # noqa: ARG005
    **options: object,
) -> Escalate:
    """The stage, asking there; closed by the caller."""
    context = context_alone(
        pixels,
        lambda: 0.0,
        folder,
        "detect",
        live=lambda _: live,
        past=lambda _: past,
        filters=lambda _: filters(),
        wake=wake,
        undecoded_pixels=lambda item: bytes(item.record.form.nbytes),
        ring=ring or rings(),
        asks=lambda _, patience_s: Asks(place, patience_s=patience_s),
    )
    table = EscalateOptions("local" if place.is_exact else "workers", **options)  # type: ignore[arg-type]
    return Escalate(StageOptions(None, table, promise or NO_PROMISE, tells), context)


def stored(states: Mapping[str, EscalateState]) -> dict[str, EscalateState]:
    """States as the next worker finds them."""
    return {s: records.decode(records.encode(v), EscalateState) for s, v in states.items()}


def heard(stage: Escalate) -> None:
    """Wait until an answer came."""
    assert stage.asks is not None
    assert select.select([stage.asks.fileno()], [], [], 10.0)[0]
    stage.asks.hear()


def run(
    stage: Escalate, items: Sequence[Item], states: Mapping[str, EscalateState]
) -> tuple[list[Detections | None], dict[str, EscalateState]]:
    """What is said of all of them, as the runner would have it: again while some wait."""
    said: list[Detections | None] = []
    left = list(items)
    while left:
        outputs, states = stage.process(left[: stage.batch], states)
        done: list[Detections | Waits | None] = [o for o in outputs if o is not WAITS]
        said += [o for o in done if not isinstance(o, Waits)]
        left = left[len(done) :]
        if not done:
            heard(stage)
    return said, stored(states)
