"""The promise in the stage: what is drawn, how audits end, what alarms do, what restarts keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from framegate.models import coco
from framegate.models.detector import detector
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.queries import Predictions, QueryId
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import WAITS, Item
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.certificate import Certificate, verify
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.promise.secret import share_secret
from framegate.stages.audit.open_audits import differs
from framegate.stages.detections import Detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.policy import EscalateState
from tests.support.told_place import (
    NEVER,
    NEW,
    PERSON,
    SEES_NOBODY,
    SEES_PERSON,
    ToldPlace,
    agrees,
    escalate,
    frame,
    heard,
    rings,
    run,
    stored,
)

LAST = End(1, 0, last=True)


def promise(**options: float) -> Promise:
    return Promise("counts", alpha=0.1, frames=50, **options)  # type: ignore[arg-type]


def disagrees(question: QueryId) -> Predictions:  # noqa: ARG001
    return SEES_NOBODY


def ended(stage: Escalate, states: Mapping[str, EscalateState]) -> PromiseNews | None:
    """The last words about source a."""
    while (words := stage.end("a", LAST, states["a"])[0]) is WAITS:
        heard(stage)
    assert not isinstance(words, type(WAITS))
    return words


def certificates(said: Sequence[Detections | None], last: PromiseNews | None) -> list[Certificate]:
    news = [each.promise for each in said if each is not None and each.promise] + (
        [last] if last else []
    )
    return [records.decode(data, Certificate) for each in news for data in each.closed]


def whole(
    folder: Path, place: ToldPlace, items: Sequence[Item], terms: Promise, **options: object
) -> list[Certificate]:
    """Certificates of a source that is run to its end."""
    stage = escalate(folder, place, terms, doubt=NEVER, **options)  # type: ignore[arg-type]
    try:
        said, states = run(stage, items, NEW)
        return certificates(said, ended(stage, states))
    finally:
        stage.close()


def test_a_period_without_a_wrong_frame_is_certified_and_the_certificate_holds(
    tmp_path: Path,
) -> None:
    place = ToldPlace(agrees)
    found = whole(tmp_path, place, [frame(seq) for seq in range(60)], promise())
    assert [each.verdict for each in found] == ["certified", "unfinished"]
    assert (found[0].served, found[0].caught, found[0].policy) == (
        50,
        0,
        detector.policy_id("heavy", coco.CAMERA),
    )
    assert "light@1" in found[0].models
    assert [verify(each) for each in found] == [[], []]
    secret = (tmp_path / "promise.secret").read_bytes()
    assert (tmp_path / "promise.secret").stat().st_mode & 0o777 == 0o600
    keys = [coin.period_key(secret, "a", number) for number in (1, 2)]
    drawn = [seq for seq in range(60) if coin.drawn(keys[seq // 50], seq % 50, promise().share)]
    assert sorted(question.position.seq for question in place.asked) == drawn
    assert all(question.exact for question in place.asked)


@pytest.mark.parametrize("is_filtered", [True, False])
def test_an_object_that_a_filter_drops_makes_no_frame_wrong(
    tmp_path: Path, is_filtered: bool
) -> None:
    car = coco.LABELS.index("car")
    boxes = (PERSON.box, (0.0, 0.0, 9.0, 9.0))
    both = Predictions(boxes, (0.8, 0.8), (0, car), ("heavy@1",))
    filters: dict[str, ObjectFilter] = {}
    if is_filtered:
        filters["cars"] = ObjectFilter(labels=("car",))
    items = [frame(seq) for seq in range(50)]
    terms = promise(alarm_audits=1e9)
    found = whole(tmp_path, ToldPlace(lambda _: both), items, terms, filters=lambda: filters)
    assert (sum(each.caught for each in found) == 0) == is_filtered


@pytest.mark.parametrize("restarts", [False, True])
def test_a_filter_that_is_added_before_the_answer_makes_no_wrong_frame_right(
    tmp_path: Path, restarts: bool
) -> None:
    """The published result lacks a car. After a restart the former filter is not known."""
    car = Predictions((PERSON.box, (0.0, 0.0, 9.0, 9.0)), (0.8, 0.8), (0, 2), ("heavy@1",))
    filters: dict[str, ObjectFilter] = {}
    place, ring = ToldPlace(lambda _: car, holds=True), rings()
    stage = escalate(tmp_path, place, promise(), ring, filters=lambda: filters, doubt=NEVER)
    states = dict(NEW)
    seq = 0
    while not states["a"].audits.open:
        _, states = run(stage, [frame(seq)], states)
        seq += 1
    if restarts:
        place.let_go()
        stage.close()
        stage = escalate(tmp_path, place, promise(), ring, filters=lambda: filters, doubt=NEVER)
    filters = {"cars": ObjectFilter(labels=("car",))}
    place.let_go()
    [closed] = certificates([], ended(stage, states))
    stage.close()
    assert (closed.drawn, closed.caught, closed.lost) == (1, 1, int(restarts))


def test_wrong_frames_are_caught_where_nobody_was_asked(tmp_path: Path) -> None:
    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if question.position.seq % 5 == 0 else SEES_PERSON

    items = [frame(seq) for seq in range(50)]
    place = ToldPlace(says)
    [found] = whole(tmp_path, place, items, promise(alarm_audits=1e9))
    assert found.verdict == "not_shown"
    assert found.caught == sum(question.position.seq % 5 == 0 for question in place.asked)
    assert found.caught > (found.k_max or 0)


def test_an_answer_about_the_very_pixels_costs_no_audit(tmp_path: Path) -> None:
    place = ToldPlace(disagrees)
    stage = escalate(tmp_path, place, promise(), doubt=0.0, per_s=1000.0, burst=100.0)
    said, states = run(stage, [frame(seq) for seq in range(50)], NEW)
    found = certificates(said, ended(stage, states))
    stage.close()
    assert [each.verdict for each in found] == ["certified"]
    assert len(place.asked) == 50
    assert not any(question.exact for question in place.asked)


@pytest.mark.parametrize("undecoded", [True, False])
def test_an_audit_of_an_undecoded_frame_shows_that_no_threshold_asks(
    tmp_path: Path, undecoded: bool
) -> None:
    """A query needs pixels, so the heavy pass corrects none of these frames."""
    items = []
    for seq in range(50):
        item = frame(seq)
        record = msgspec.structs.replace(item.record, undecoded=undecoded)
        items.append(item._replace(record=record))
    terms = promise(alarm_audits=1e9)
    stage = escalate(tmp_path, ToldPlace(disagrees), terms, doubt=NEVER)
    _, states = run(stage, items, NEW)
    stage.close()
    thresholds = states["a"].audits.thresholds
    assert thresholds.frames > 0
    assert (thresholds.asked[0] == 0) == undecoded
    assert (thresholds.wrong[0] == thresholds.frames) == undecoded


def test_an_answer_about_other_pixels_is_audited_like_the_rest(tmp_path: Path) -> None:
    place = ToldPlace(disagrees, is_exact=False)
    stage = escalate(tmp_path, place, promise(), doubt=0.0, per_s=1000.0, burst=100.0)
    said, states = run(stage, [frame(seq) for seq in range(50)], NEW)
    [found] = certificates(said, ended(stage, states))
    stage.close()
    assert sum(question.exact for question in place.asked) == found.drawn
    assert found.verdict == "certified"


@pytest.mark.parametrize("dies_every", [1, 3, 7])
def test_whoever_dies_in_between_the_audits_are_the_same_each_once(
    tmp_path: Path, dies_every: int
) -> None:
    items = [frame(seq) for seq in range(60)]
    wrong = {5, 6, 31}

    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if question.position.seq in wrong else SEES_PERSON

    undisturbed = whole(tmp_path, ToldPlace(says), items, promise())
    ring = rings()
    said: list[Detections | None] = []
    states: Mapping[str, EscalateState] = dict(NEW)
    for begin in range(0, 60, dies_every):
        stage = escalate(tmp_path, ToldPlace(says), promise(), ring, doubt=NEVER)
        part, states = run(stage, items[begin : begin + dies_every], states)
        said += part
        stage.close()
    stage = escalate(tmp_path, ToldPlace(says), promise(), ring, doubt=NEVER)
    assert certificates(said, ended(stage, states)) == undisturbed
    stage.close()


def test_pixels_that_went_with_the_machine_are_a_lost_audit(tmp_path: Path) -> None:
    place = ToldPlace(agrees, holds=True)
    stage = escalate(tmp_path, place, promise(), doubt=NEVER)
    states = dict(NEW)
    seq = 0
    while not states["a"].audits.open:
        _, states = run(stage, [frame(seq)], states)
        seq += 1
    stage.close()
    after = escalate(tmp_path, ToldPlace(agrees), promise(), doubt=NEVER)  # with other rings
    words = ended(after, stored(states))
    after.close()
    assert words is not None
    [closed] = certificates([], words)
    assert (closed.lost, closed.caught) == (1, 1)


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_source_that_moves_keeps_its_period_with_the_secret_of_the_fleet(
    tmp_path: Path, is_shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it the open period gets no certificate, and the log says so."""
    terms = Promise("counts", alpha=0.5, frames=50)  # audits that are open at the move are lost
    secrets = ["the secret of a fleet", "another secret here"]
    states: dict[str, EscalateState] = dict(NEW)
    found: list[Certificate] = []
    for host, seqs in enumerate((range(30), range(30, 60))):
        folder = tmp_path / f"host{host}"
        folder.mkdir()
        share_secret(folder, secrets[0 if is_shared else host])
        stage = escalate(folder, ToldPlace(agrees), terms, doubt=NEVER)
        said, states = run(stage, [frame(seq) for seq in seqs], states)
        if host == 1:
            found = certificates(said, ended(stage, states))
        stage.close()
    periods = [(1, 50), (2, 10)] if is_shared else [(2, 30)]
    assert [(each.period, each.served) for each in found] == periods
    assert [verify(each) for each in found] == [[]] * len(found)
    assert ("period 1 ends without a certificate" in caplog.text) is not is_shared


def test_failed_frames_count_as_wrong(tmp_path: Path) -> None:
    def fails(seq: int) -> Item:
        item = frame(seq)
        record = item.record
        failed = type(record)(1, record.pts, 0.0, 0.0, seq, record.form, failed="stage_error")
        return item._replace(record=failed)

    items = [fails(seq) if seq % 5 == 0 else frame(seq) for seq in range(50)]
    [found] = whole(tmp_path, ToldPlace(agrees), items, promise())
    assert (found.failed, found.verdict) == (10, "failed")


def test_after_an_alarm_all_are_asked_about_until_fewer_are_shown_to_be_enough(
    tmp_path: Path,
) -> None:
    """Frames from 20 on show nobody to the heavy pass: a new scene, in which detect is wrong."""

    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if question.position.seq >= 20 else SEES_PERSON

    place = ToldPlace(says)
    (tmp_path / "promise.secret").write_bytes(bytes(32))
    terms = promise(audited=0.9, alarm_audits=50.0)
    stage = escalate(tmp_path, place, terms, doubt=NEVER, per_s=1000.0, burst=100.0)
    said, states = run(stage, [frame(seq) for seq in range(300)], NEW)
    found = certificates(said, ended(stage, states))
    stage.close()
    alarm = next(each for each in found if each.verdict == "alarm")
    assert 20 < alarm.last.seq < 60
    escalated = [seq for seq, each in enumerate(said) if each and each.escalation == "done"]
    assert escalated[0] == alarm.last.seq + 1
    chosen = states["a"].audits.chosen
    assert chosen is not None
    assert chosen < NEVER  # which was wrong
    assert "certified" in [each.verdict for each in found[found.index(alarm) + 1 :]]


@pytest.mark.parametrize("live", [True, False])
def test_an_alarm_keeps_a_camera_awake(tmp_path: Path, live: bool) -> None:
    woken: list[str] = []
    stage = escalate(tmp_path, ToldPlace(agrees), promise(), live=live, wake=woken.append)
    _, states = run(stage, [frame(0)], NEW)
    assert woken == []
    state = states["a"]
    alarmed = msgspec.structs.replace(state, audits=msgspec.structs.replace(state.audits, fresh=0))
    run(stage, [frame(1)], {"a": alarmed})
    stage.close()
    assert woken == ["a"] * live


def test_what_the_alarm_asked_is_no_debt_once_it_is_over(tmp_path: Path) -> None:
    """One ask was left; in alarm dozens are made, and none of the later ones is missing for it."""

    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if question.position.seq >= 20 else SEES_PERSON

    (tmp_path / "promise.secret").write_bytes(bytes(32))
    terms = promise(audited=0.9, alarm_audits=50.0)
    stage = escalate(tmp_path, ToldPlace(says), terms, doubt=NEVER, per_s=0.0, burst=1.0)
    said, states = run(stage, [frame(seq) for seq in range(100)], NEW)
    stage.close()
    assert sum(each is not None and each.escalation == "done" for each in said) > 20
    assert states["a"].audits.fresh is None
    assert states["a"].tokens.left == 0.0


def test_what_was_still_open_when_the_alarm_rang_rings_it_no_second_time(tmp_path: Path) -> None:
    """Detect is wrong for ten frames; of so lax a promise six right ones show enough."""

    def says(question: QueryId) -> Predictions:
        return SEES_NOBODY if 20 <= question.position.seq < 30 else SEES_PERSON

    terms = Promise("counts", alpha=0.4, frames=50, audited=1.0, alarm_audits=10.0)
    stage = escalate(tmp_path, ToldPlace(says), terms, doubt=NEVER, per_s=1000.0, burst=100.0)
    said, states = run(stage, [frame(seq) for seq in range(100)], NEW)
    verdicts = [each.verdict for each in certificates(said, ended(stage, states))]
    stage.close()
    assert verdicts.count("alarm") == 1
    told = {seq: each.promise for seq, each in enumerate(said) if each and each.promise}
    first, *_, last = alarmed = [seq for seq, news in told.items() if news.alarmed]
    assert alarmed == list(range(first, first + 5))
    assert [each.escalation for each in said[first : last + 2] if each] == ["done"] * 6
    assert (told[first].doubt, told[last + 1].doubt) == (NEVER, 0.7)


def test_a_frame_is_wrong_by_its_numbers_of_objects() -> None:
    far = Predictions(((20.0, 2.0, 30.0, 14.0),), (0.8,), (0,), ())
    assert not differs(SEES_PERSON, far)
    assert differs(SEES_PERSON, SEES_NOBODY)


def made_by(item: Item, model: str) -> Item:
    """The frame as another model saw it."""
    found = Detections("detected", "whole", "every_frame", (PERSON,), (model,))
    said = {"detect": msgspec.Raw(records.encode(found))}
    return item._replace(record=msgspec.structs.replace(item.record, said=said))


def test_a_certificate_names_the_models_of_its_period_and_no_others(tmp_path: Path) -> None:
    """One a period; its last audits are over when the next model serves already."""
    place = ToldPlace(agrees)
    terms = Promise("counts", alpha=0.1, frames=20, audited=0.1)
    stage = escalate(tmp_path, place, terms, doubt=NEVER)
    items = [made_by(frame(seq), f"model-{seq // 20}@{seq // 20:08x}") for seq in range(200)]
    said, states = run(stage, items, NEW)
    found = certificates(said, ended(stage, states))
    stage.close()
    named = [(f"model-{n}@{n:08x}",) for n in range(10)]
    assert [one.models for one in found] == named
    assert [verify(one) for one in found] == [[]] * 10
    assert len(records.encode(states["a"])) < 900  # about half of it are the learned weights


def test_models_of_a_period_have_a_bound_and_a_certificate_says_where_it_was_met(
    tmp_path: Path,
) -> None:
    terms = Promise("counts", alpha=0.1, frames=50, audited=0.3)
    items = [made_by(frame(seq), f"model-{seq}@{seq:08x}") for seq in range(50)]
    found = whole(tmp_path, ToldPlace(agrees), items, terms)
    assert found[0].models == (*[f"model-{n}@{n:08x}" for n in range(24)], "others")


def test_frames_that_a_lost_camera_had_dropped_are_missed_not_failed(tmp_path: Path) -> None:
    terms = Promise("counts", alpha=0.1, frames=50, audited=1.0, alarm_audits=1e9)
    stage = escalate(tmp_path, ToldPlace(agrees), terms, doubt=NEVER)
    _, states = run(stage, [frame(seq) for seq in range(10)], NEW)
    lost = End(1, 16, last=False, fault="stalled", dropped=6, epoch=1)
    states["a"] = stage.end("a", lost, states["a"])[1]
    now = states["a"].audits.now
    assert (now.served, now.missed, now.failed, now.caught) == (10, 6, 0, 0)
    # Of the next connection four frames were set aside by this stage, and three dropped.
    lost = End(1, 7, last=False, fault="stalled", dropped=3, epoch=2)
    states["a"] = stage.end("a", lost, states["a"])[1]
    now = states["a"].audits.now
    stage.close()
    assert (now.served, now.missed, now.failed) == (14, 9, 4)


def test_what_a_camera_dropped_before_it_served_anything_lowers_coverage(tmp_path: Path) -> None:
    terms = Promise("counts", alpha=0.1, frames=50, audited=1.0)
    stage = escalate(tmp_path, ToldPlace(agrees), terms, doubt=NEVER)
    lost = End(1, 6, last=False, fault="stalled", dropped=6, epoch=1)
    states = {"a": stage.end("a", lost, NEW["a"])[1]}
    said, states = run(stage, [frame(seq, epoch=2) for seq in range(50)], states)
    (found,) = certificates(said, ended(stage, states))
    stage.close()
    assert (found.served, found.decoded, found.verdict) == (50, 56, "coverage")


def test_an_epoch_that_a_kill_skipped_changes_no_coin(tmp_path: Path) -> None:
    """Between asking for an epoch and its first frame: the run's first frame is of the second."""
    one, other = (
        whole(tmp_path, ToldPlace(agrees), [frame(n, epoch=e) for n in range(110)], promise())
        for e in (1, 2)
    )
    assert [each.opening for each in one] == [each.opening for each in other]
    assert [(each.period, each.drawn) for each in one] == [
        (each.period, each.drawn) for each in other
    ]


def test_no_coin_comes_twice_where_the_store_has_forgotten_a_source(tmp_path: Path) -> None:
    """The coins of its periods were opened, in certificates that are there still."""
    before = whole(tmp_path, ToldPlace(agrees), [frame(seq) for seq in range(110)], promise())
    again = [frame(seq, epoch=2) for seq in range(110)]
    after = whole(tmp_path, ToldPlace(agrees), again, promise(), past=1)
    assert len({each.opening for each in (*before, *after)}) == 6
    assert len({each.period for each in (*before, *after)}) == 6
