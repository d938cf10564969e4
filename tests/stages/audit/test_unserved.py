"""Frames that went past escalate, coins that changed, damaged secrets: nothing is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults, FrameLost
from framegate.pipeline.contracts.queries import Predictions, QueryId
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import WAITS, Item, Waits
from framegate.pipeline.promise.certificate import Certificate, Declaration, verify
from framegate.pipeline.promise.period import MOST_PERIODS, Promise
from framegate.stages.audit.open_audits import AuditState
from framegate.stages.detections import Detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.policy import EscalateState
from tests.support.told_place import (
    NEVER,
    NEW,
    SEES_NOBODY,
    SEES_PERSON,
    ToldPlace,
    agrees,
    escalate,
    frame,
    heard,
    rings,
    run,
)

TERMS = Promise("counts", alpha=0.1, frames=50, alarm_audits=1e9)


def audits(states: Mapping[str, EscalateState]) -> AuditState:
    return states["a"].audits


def ended(
    stage: Escalate, states: Mapping[str, EscalateState], frames: int
) -> tuple[PromiseNews | None, EscalateState]:
    while True:
        words, state = stage.end("a", End(1, frames, last=True), states["a"])
        if not isinstance(words, Waits):
            return words, state
        heard(stage)


def declared(said: list[Detections | None]) -> list[int]:
    news = [each.promise for each in said if each and each.promise]
    return [records.decode(raw, Declaration).period for one in news for raw in one.declared]


def closed(said: list[Detections | None]) -> list[Certificate]:
    news = [each.promise for each in said if each and each.promise]
    return [records.decode(raw, Certificate) for one in news for raw in one.closed]


def test_frames_that_are_set_aside_in_this_stage_are_served_as_failed(tmp_path: Path) -> None:
    """The runner publishes them without it: 10 to 14, and the last five."""
    (tmp_path / "promise.secret").write_bytes(bytes(32))
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)
    shown = [frame(seq) for seq in range(40) if not 10 <= seq < 15]
    _, states = run(stage, shown, NEW)
    assert (audits(states).now.served, audits(states).now.failed) == (40, 5)
    words, _ = ended(stage, states, frames=45)
    stage.close()
    assert words is not None
    [found] = [records.decode(raw, Certificate) for raw in words.closed]
    assert (found.served, found.failed, found.decoded) == (45, 10, 45)
    assert verify(found) == []


def test_what_failed_at_a_periods_border_is_of_both_periods(tmp_path: Path) -> None:
    (tmp_path / "promise.secret").write_bytes(bytes(32))
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)
    said, states = run(stage, [frame(seq) for seq in range(80) if not 48 <= seq < 52], NEW)
    stage.close()
    [first] = closed(said)
    assert (first.served, first.failed) == (50, 2)
    assert (audits(states).now.served, audits(states).now.failed) == (30, 2)


def test_dropped_frames_are_not_served_ones(tmp_path: Path) -> None:
    """A camera's: their numbers are missing as well, and the record says so."""
    late = frame(9)
    late = late._replace(record=msgspec.structs.replace(late.record, dropped=4))
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)
    _, states = run(stage, [*(frame(seq) for seq in range(5)), late], NEW)
    stage.close()
    now = audits(states).now
    assert (now.served, now.missed, now.failed) == (6, 4, 0)


def test_an_epoch_of_dropped_frames_gets_a_period_number_that_was_never_used(
    tmp_path: Path,
) -> None:
    """The store has lost the source after three epochs."""
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, past=3, live=True, doubt=NEVER)
    _, state = stage.end("a", End(1, 5, last=False, dropped=5, epoch=4), NEW["a"])
    stage.close()
    assert (state.audits.now.number, state.audits.now.missed) == (3 * MOST_PERIODS + 1, 5)


def test_frames_before_the_promise_are_none_of_its_business(tmp_path: Path) -> None:
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)
    _, states = run(stage, [frame(seq) for seq in range(500, 510)], NEW)
    stage.close()
    assert (audits(states).now.served, audits(states).now.failed) == (10, 0)


def test_under_another_coin_a_period_begins_anew(tmp_path: Path) -> None:
    """The source goes on in another data folder, in mid-period."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    stage = escalate(here, ToldPlace(agrees), TERMS, doubt=NEVER)
    first, states = run(stage, [frame(seq) for seq in range(25)], NEW)
    stage.close()
    stage = escalate(there, ToldPlace(agrees), TERMS, doubt=NEVER)
    second, states = run(stage, [frame(seq) for seq in range(25, 90)], states)
    stage.close()
    assert declared([*first, *second]) == [1, 2, 3]
    assert [(one.period, verify(one)) for one in closed(second)] == [(2, [])]


def test_each_period_is_declared_once_also_after_an_end(tmp_path: Path) -> None:
    stage = escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)
    first, states = run(stage, [frame(seq) for seq in range(20)], NEW)
    _, state = ended(stage, states, frames=20)
    second, _ = run(stage, [frame(seq, epoch=2) for seq in range(20)], {"a": state})
    stage.close()
    assert (declared(first), declared(second)) == ([1], [2])


def test_an_audit_waits_for_a_files_pixels_that_are_decoded_again(tmp_path: Path) -> None:
    on_their_way: Item = frame(0)
    record = msgspec.structs.replace(on_their_way.record, number=-1)
    on_their_way = on_their_way._replace(record=record)
    terms = Promise("counts", alpha=0.1, frames=50, audited=1.0)
    stage = escalate(tmp_path, ToldPlace(agrees), terms, doubt=NEVER)
    with pytest.raises(FrameLost):
        stage.process([on_their_way], NEW)
    camera = escalate(tmp_path, ToldPlace(agrees), terms, rings(), live=True, doubt=NEVER)
    said, states = camera.process([on_their_way], NEW)
    for each in (stage, camera):
        each.close()
    assert said != [WAITS]
    assert audits(states).now.lost == 1


def test_a_damaged_secret_is_told_before_any_frame(tmp_path: Path) -> None:
    (tmp_path / "promise.secret").write_bytes(b"")
    with pytest.raises(ConfigFaults, match="has 0 bytes; must be 32"):
        escalate(tmp_path, ToldPlace(agrees), TERMS, doubt=NEVER)


def test_a_threshold_is_not_praised_for_asks_that_had_no_budget(tmp_path: Path) -> None:
    """All are in doubt, one may be asked about, and of the others half are wrong."""

    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if question.position.seq % 2 else SEES_PERSON

    terms = Promise("counts", alpha=0.1, frames=50, audited=0.9, alarm_audits=1e9)
    (tmp_path / "promise.secret").write_bytes(bytes(32))
    stage = escalate(tmp_path, ToldPlace(says), terms, doubt=0.0, per_s=0.0, burst=1.0)
    said, states = run(stage, [frame(seq) for seq in range(40)], NEW)
    stage.close()
    assert sum(each is not None and each.degraded == "over_budget" for each in said) > 30
    arms = audits(states).thresholds
    assert arms.frames
    assert min(arms.wrong) > arms.frames // 4
