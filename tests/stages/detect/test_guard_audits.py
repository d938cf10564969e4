"""The guard's audits: the heavy pass says which of two models is right, and the alarm follows."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from framegate.models import coco
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.queries import Place, PlaceSpec, Predictions, QueryId
from framegate.pipeline.contracts.stage import WAITS, Item
from framegate.pipeline.engine.alone import context_alone
from framegate.pipeline.heavy.asks import Asks
from framegate.stages.audit.audits import seen_in
from framegate.stages.detect import Detect, DetectOptions, DetectState
from framegate.stages.detect.guard import FALSE_ALARM_LOOKS, SOON_S, WORSE, audits_until_alarm
from framegate.stages.detect.options import CacheOptions, GuardOptions, ModelOptions
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import stored
from tests.stages.detect.test_guard import (
    DAY,
    EMPTY,
    FPS,
    NIGHT,
    alarms,
    batched,
    compiled_once,
    footage,
    pixels,
    registry,
    serves,
)
from tests.support.told_place import ToldPlace

__all__ = ["registry"]
AUDIT_S = 1 / FPS  # each frame is an audit
CAR = coco.LABELS.index("car")


class Camera:
    """One source with its model, through the store after each batch, and whom to ask."""

    def __init__(
        self,
        folder: Path,
        registry: Path,
        model: str,
        place: Place | None = None,
        live: bool = False,
        audit_s: float = AUDIT_S,
    ) -> None:
        options = DetectOptions(
            guard=GuardOptions(every_s=20.0, audit_s=audit_s),
            cache=CacheOptions(exact=False),
            models=ModelOptions(registry=str(registry)),
        )

        def asks(spec: PlaceSpec, _: float) -> Asks:
            assert callable(spec)
            return Asks(self._place or spec(), patience_s=0.2)

        self._place = place

        context = context_alone(
            pixels,
            lambda: 0.0,
            compiled_once(folder, registry),
            "window",
            model=lambda _: model,
            asks=asks,
            live=lambda _: live,
        )
        self._anew = lambda: Detect(options, context)
        self.stage = self._anew()
        self.state: dict[str, DetectState] = {"a": DetectState()}

    def close(self) -> None:
        assert self.stage.asks is not None
        self.stage.asks.close()

    def killed(self, place: Place) -> None:
        """Another worker goes on with what the store has."""
        self.close()
        self._place = place
        self.stage = self._anew()

    def hear(self) -> None:
        """Wait until an answer came."""
        assert self.stage.asks is not None
        assert select.select([self.stage.asks.fileno()], [], [], 60.0)[0]
        self.stage.asks.hear()

    def see(self, frames: Sequence[Item], at_once: int = 1) -> list[Detections]:
        said: list[Detections] = []
        left = list(frames)
        while left:
            answers, after = self.stage.process(left[:at_once], self.state)
            self.state = stored(dict(after))
            done = [answer for answer in answers if isinstance(answer, Detections)]
            assert answers == [*done, *[WAITS] * (len(answers) - len(done))]
            said += done
            left = left[len(done) :]
            if not done:
                self.hear()
        return said


@pytest.fixture
def camera(registry: Path, tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    made: list[Camera] = []

    def make(model: str, **how: object) -> Camera:
        made.append(Camera(tmp_path / str(len(made)), registry, model, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def sees(count: int) -> Callable[[QueryId], Predictions]:
    """A heavy pass that sees so many cars, all where nothing is."""
    boxes = tuple((8.0 * n, 0.0, 8.0 * n + 4.0, 4.0) for n in range(count))
    return lambda _: Predictions(boxes, (0.9,) * count, (CAR,) * count, ("heavy@1",))


def just_come(frame: Item) -> Item:
    """A camera's frame, which arrives now."""
    record = msgspec.structs.replace(frame.record, arrived=time.monotonic())
    return frame._replace(record=record)


def test_what_shows_things_that_are_not_there_is_replaced_within_its_bound(
    camera: Callable[..., Camera],
) -> None:
    """The same weights as the general model's, with scores so low that it shows what is not there.

    In what the two see they do not differ: only who knows what is there can tell.
    """
    own = camera("tuned")
    said = own.see(footage((DAY, 8)))
    rings = alarms(said).index(True)
    before, news = said[rings - 1].guard, said[rings].guard
    assert before is not None
    assert news is not None
    assert before.apart <= 0.2
    assert before.behind > WORSE
    bound = audits_until_alarm(before.behind)
    assert bound is not None
    assert news.audits == before.audits + 1 <= bound
    # Each audit came as soon as may be, once the first said that there is reason.
    assert rings / FPS <= AUDIT_S + bound * min(SOON_S, AUDIT_S)
    assert {serves(one) for one in said[: rings + 1]} == {"tuned"}
    assert {serves(one) for one in said[rings + 1 :]} == {"nanodet"}
    assert said[rings + 1].reason == "swapped"
    [general] = camera("").see(footage((DAY, 0.25)))
    found = {one.box for one in said[rings + 1].objects}
    assert found == {one.box for one in general.objects}


def test_what_is_as_good_serves_on(camera: Callable[..., Camera]) -> None:
    said = camera("street").see(footage((DAY, 5)))
    assert {serves(one) for one in said} == {"street"}
    news = said[-1].guard
    assert news is not None
    assert news.audits == len(said)
    assert news.behind <= WORSE


def test_where_both_show_the_same_nobody_is_asked(camera: Callable[..., Camera]) -> None:
    """Whatever there is, neither is better; the frame counts as one in which they are level."""
    place = ToldPlace(sees(3))
    said = camera("same", place=place).see(footage((DAY, 1)))
    assert place.asked == []
    news = said[-1].guard
    assert news is not None
    assert (news.audits, news.behind) == (len(said), 0.0)


def test_what_sees_nothing_at_night_is_replaced_by_audits_before_any_other_look(
    camera: Callable[..., Camera],
) -> None:
    said = camera("street").see(footage((DAY, 1), (NIGHT, 6)))
    rings = alarms(said).index(True)
    bound = audits_until_alarm(1.0)
    assert bound is not None
    assert FPS <= rings <= FPS + bound  # what was seen by day won nothing


def test_neither_kills_nor_batches_change_a_byte(camera: Callable[..., Camera]) -> None:
    frames = footage((DAY, 1), (NIGHT, 6))
    general = camera("").see(frames)

    def says(query: QueryId) -> Predictions:
        return seen_in(general[query.position.seq].objects)

    one_by_one = camera("street", place=ToldPlace(says)).see(frames)
    assert any(alarms(one_by_one))
    together = camera("street", place=ToldPlace(says)).see(frames, at_once=5)
    killed = camera("street", place=ToldPlace(says))
    in_pieces: list[Detections] = []
    for piece in batched(frames, 11):
        in_pieces += killed.see(piece, at_once=3)
        killed.killed(ToldPlace(says))
    encoded = [records.encode(one) for one in one_by_one]
    assert [records.encode(one) for one in together] == encoded
    assert [records.encode(one) for one in in_pieces] == encoded


def test_a_camera_waits_for_nobody_and_what_comes_late_counts_then(
    camera: Callable[..., Camera],
) -> None:
    place = ToldPlace(sees(3), holds=True)
    own = camera("tuned", place=place, live=True)
    frames = [just_come(frame) for frame in footage((DAY, 12))]
    said = own.see(frames[:20])
    assert len(place.asked) <= 1  # one question at a time, whatever is due meanwhile
    assert {one.guard.audits for one in said if one.guard is not None} == {0}
    place.let_go()
    own.hear()
    assert place.asked == [QueryId("a", frames[0].position)]
    [late] = own.see(frames[20:21])
    assert late.guard is not None
    assert late.guard.audits == 1


def test_nobody_to_ask_warns_of_nothing_and_holds_nothing_up(
    camera: Callable[..., Camera],
) -> None:
    place = ToldPlace(sees(3))
    place.is_away = True
    said = camera("tuned", place=place).see(footage((DAY, 6)))
    assert len(place.asked) >= 1
    assert said[-1].guard is not None
    assert said[-1].guard.audits == 0
    assert not any(alarms(said))


def test_an_empty_scene_tells_nothing(
    camera: Callable[..., Camera],
) -> None:
    place = ToldPlace(sees(0))
    said = camera("street", place=place).see(footage((EMPTY, 2)))
    assert place.asked == []  # who shows nothing is no better than who shows nothing
    assert said[-1].guard is not None
    assert said[-1].guard.audits == 0


def test_audits_may_be_switched_off(registry: Path, tmp_path: Path) -> None:
    assert Camera(tmp_path, registry, "street", audit_s=0.0).stage.asks is None


def test_how_many_audits_an_alarm_takes() -> None:
    assert [audits_until_alarm(loss) for loss in (1.0, 0.5, 0.2, 0.1)] == [16, 27, 62, 136]
    assert audits_until_alarm(WORSE) is None
    assert FALSE_ALARM_LOOKS == 1000.0
