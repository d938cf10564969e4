"""Escalate: when it asks, how it waits, and what it says where nobody answers."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.queries import Predictions, QueryId
from framegate.pipeline.contracts.stage import WAITS, Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.heavy import asks
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.recording.changed_parts import COLUMNS, ROWS
from framegate.stages.detections import ChangedParts, Detections, last_detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.corrections import Corrections
from framegate.stages.escalate.options import EscalateOptions, StageOptions
from framegate.stages.escalate.policy import EscalateState, Tokens, refiltered
from tests.support.told_place import (
    PERSON,
    SEES_NOBODY,
    SEES_PERSON,
    ToldPlace,
    escalate,
    frame,
    heard,
    pixels,
    run,
)

ALWAYS, NEVER = 0.0, 1.01
NEW = {"a": EscalateState()}


@pytest.fixture
def closing() -> Iterator[list[Escalate]]:
    """Stages that are closed after the test."""
    stages: list[Escalate] = []
    yield stages
    for stage in stages:
        stage.close()


def outcome(said: Detections | None) -> tuple[str, str | None, int]:
    assert said is not None
    return said.escalation, said.degraded, len(said.objects)


def test_an_answer_is_what_is_served(tmp_path: Path, closing: list[Escalate]) -> None:
    closing.append(stage := escalate(tmp_path, ToldPlace(lambda _: SEES_PERSON), doubt=ALWAYS))
    [said], states = run(stage, [frame(0)], NEW)
    assert outcome(said) == ("done", None, 1)
    assert said is not None
    assert (said.objects[0].score, said.objects[0].origin) == (0.8, "escalated")
    assert said.models == ("light@1", "heavy@1")
    assert states["a"].models == ("heavy@1",)


def test_an_answer_says_which_tracks_it_confirms_and_refutes(
    tmp_path: Path, closing: list[Escalate]
) -> None:
    """With it and in the frames after it; the changed parts of a frame stay."""
    for answer, confirmed, refuted in ((SEES_PERSON, (1,), ()), (SEES_NOBODY, (), (PERSON,))):
        place = ToldPlace(functools.partial(given, answer))
        closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS, burst=1.0, per_s=0.0))
        parts = ChangedParts(1, 1, bytes(ROWS * COLUMNS // 8))
        items = [with_changes(frame(seq), parts) for seq in range(3)]
        said, _ = run(stage, items, NEW)
        for each in said:
            assert each is not None
            assert (each.confirmed, each.refuted) == (confirmed, refuted)
            assert each.changes == parts


def given(answer: Predictions, question: QueryId) -> Predictions:  # noqa: ARG001
    return answer


def with_changes(item: Item, parts: ChangedParts) -> Item:
    detections = replace(last_detections(item.record), changes=parts)
    said = {"detect": msgspec.Raw(records.encode(detections))}
    return item._replace(record=replace(item.record, said=said))


def test_what_a_filter_drops_is_no_answer(tmp_path: Path, closing: list[Escalate]) -> None:
    """The heavy pass sees a person that detect saw as well, and a filter drops people."""
    people = {"people": ObjectFilter(labels=("person",))}
    place = ToldPlace(lambda _: SEES_PERSON)
    closing.append(stage := escalate(tmp_path, place, filters=lambda: people, doubt=ALWAYS))
    [said], states = run(stage, [frame(0)], NEW)
    assert outcome(said) == ("done", None, 0)
    corrections = states["a"].known
    assert corrections.at_s is not None
    changed = Detections("detected", "whole", "swapped", (), ("light@1",), filters=("people",))
    assert refiltered(states["a"], changed).known == Corrections()
    assert refiltered(states["a"], replace(changed, filters=None)).known == corrections


def test_a_files_frames_wait_where_no_more_can_be_held(
    tmp_path: Path, closing: list[Escalate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks, "ROOM", asks.Room(nbytes=0, least=2))
    place = ToldPlace(lambda _: SEES_PERSON)
    closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS, burst=1000.0, per_s=1000.0))
    frames = [frame(seq) for seq in range(40)]
    said, _ = run(stage, frames, NEW)
    assert [outcome(one) for one in said] == [("done", None, 1)] * 40
    assert sorted(place.asked) == [QueryId("a", item.position) for item in frames]


def test_who_is_content_does_not_ask(tmp_path: Path, closing: list[Escalate]) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY)
    closing.append(stage := escalate(tmp_path, place, doubt=NEVER))
    [said], _ = run(stage, [frame(0)], NEW)
    assert outcome(said) == ("none", None, 1)
    assert place.asked == []


def test_without_a_place_nothing_is_added(tmp_path: Path) -> None:
    stage = Escalate(StageOptions(), context_alone(pixels, lambda: 0.0, tmp_path, "detect"))
    assert stage.process([frame(0)], NEW) == ([None], NEW)
    assert stage.asks is None


def test_a_promise_needs_somebody_to_audit() -> None:
    [fault] = StageOptions(promise=Promise("counts")).faults()
    assert "escalate.place" in fault
    assert StageOptions(escalate=EscalateOptions("local"), promise=Promise("counts")).faults() == []


def test_frames_wait_in_order_while_their_questions_go_ahead(
    tmp_path: Path, closing: list[Escalate]
) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY, holds=True)
    closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS))
    items = [frame(0), frame(1), frame(2)]
    outputs, states = stage.process(items, NEW)
    assert outputs == [WAITS] * 3
    assert states == NEW
    assert stage.asks is not None
    assert all(stage.asks.knows(question) for question in asked_about(items))
    place.let_go()
    said, _ = run(stage, items, NEW)
    assert [outcome(each) for each in said] == [("done", None, 0)] * 3
    assert place.asked == asked_about(items)
    assert not any(stage.asks.knows(question) for question in asked_about(items))


def asked_about(items: Sequence[Item]) -> list[QueryId]:
    return [QueryId(item.source, item.position) for item in items]


def test_one_source_that_waits_holds_no_other_up(tmp_path: Path, closing: list[Escalate]) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY, holds=True)
    closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS, burst=1.0, per_s=0.0))
    states = {"a": EscalateState(), "b": EscalateState(1, 0.0, tokens=Tokens(0.0, 0.0))}
    outputs, _ = stage.process([frame(0, "a"), frame(1, "b")], states)
    assert outputs[0] is WAITS
    assert isinstance(outputs[1], Detections)
    assert outputs[1].degraded == "over_budget"


def test_in_doubt_and_over_budget_is_degraded(tmp_path: Path, closing: list[Escalate]) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY)
    closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS, burst=1.0, per_s=5.0))
    said, _ = run(stage, [frame(seq) for seq in range(6)], NEW)
    # Ten frames a second, five asks: every second frame, from the first on.
    done = ("done", None)
    spent = ("degraded", "over_budget")
    assert [outcome(each)[:2] for each in said] == [done, spent, done, spent, done, spent]


def test_what_a_camera_gets_late_teaches_the_frame_that_applies_it(
    tmp_path: Path, closing: list[Escalate]
) -> None:
    place = ToldPlace(lambda _: SEES_PERSON, holds=True)
    options = {"doubt": ALWAYS, "burst": 1.0, "per_s": 0.0, "deadline_s": 0.5}
    closing.append(stage := escalate(tmp_path, place, live=True, **options))
    arrived = time.monotonic()
    first, second = frame(0, arrived=arrived), frame(1, arrived=arrived + 0.1)
    outputs, states = stage.process([first], NEW)
    while outputs == [WAITS]:
        outputs, states = stage.process([first], NEW)
    assert outcome(outputs[0]) == ("degraded", "late", 1)  # type: ignore[arg-type]
    assert states["a"].models == ()
    place.let_go()
    heard(stage)
    _, states = run(stage, [second], states)
    assert states["a"].models == ("heavy@1",)


def test_a_camera_does_not_wait_for_a_place_that_is_away(
    tmp_path: Path, closing: list[Escalate]
) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY)
    place.is_away = True
    options = {"doubt": ALWAYS, "burst": 9.0, "all_per_s": 9.0, "deadline_s": 60.0}
    closing.append(stage := escalate(tmp_path, place, live=True, **options))
    now = time.monotonic()
    said, _ = run(stage, [frame(seq, arrived=now) for seq in range(5)], NEW)
    reasons = [each.degraded for each in said if each is not None]
    assert set(reasons) == {"unanswered", "breaker_open"}
    assert reasons[0] == "unanswered"
    assert reasons[-1] == "breaker_open"
    assert len(place.asked) == 3


def test_lost_pixels_cost_a_camera_the_answer_and_a_file_time(
    tmp_path: Path, closing: list[Escalate]
) -> None:
    place = ToldPlace(lambda _: SEES_NOBODY)
    closing.append(stage := escalate(tmp_path, place, doubt=ALWAYS))
    gone, coming = frame(-2), frame(-1)
    [said], _ = run(stage, [gone], NEW)
    assert outcome(said) == ("degraded", "pixels_lost", 1)
    with pytest.raises(FrameLost):
        stage.process([coming], NEW)
