"""Which events only a camera or only Framegate reported. The expectations are by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate.pipeline.contracts.episodes import Change, Changes, EventEntry
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import Visit, VisitEntry
from framegate.pipeline.review.disagreements import CameraComparison, compare
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.projection import Projection
from tests.support.said import BEGAN, change, moment, visit

S = 10  # frames of a second
HOUR = 3600 * S
NOW = BEGAN + 10 * 3600.0


class Days:
    """What a run stored, in any order."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._projection = Projection(self.file)
        self._at: dict[tuple[str, str], Position] = {}

    def report(self, began: int, last: int, event: str, **told: Any) -> str:
        """The camera reports an event from one frame to another; the last one is its end."""
        usual = {"when": "state", "label": event, "rule": f"camera_{event}", "tracks": ()}
        start = change("start", began, began, **{**usual, **told})
        end = change("end", began, last, **{**usual, **told})
        self.say(last, start, end)
        return start.episode

    def say(self, seq: int, *changes: Change, **more: Any) -> None:
        source = changes[0].source if changes else "door"
        before = self._at.get(("events", source), START)
        at = Position(1, seq)
        assert at > before, "in order"
        self._at["events", source] = at
        told = Changes(changes, **more)
        entry = EventEntry(source, at, before, moment(seq).captured, told)
        self._projection.take([entry])

    def see(self, *visits: Visit) -> None:
        before = self._at.get(("visits", "door"), START)
        at = Position(1, before.seq + 1)
        self._at["visits", "door"] = at
        self._projection.take([VisitEntry("door", at, before, visits)])

    def compare(self, limit: int = 100, now: float = NOW) -> CameraComparison:
        with opened(self.file) as database:
            return compare(database, BEGAN, now, limit, now)

    def close(self) -> None:
        self._projection.close()


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Days]:
    with closing(Days(tmp_path)) as made:
        yield made


def test_each_side_is_compared_with_the_other_by_hour(days: Days) -> None:
    days.report(100, 200, "person")
    alone = days.report(HOUR, HOUR + 50, "person")
    late = 200 + 4 * S  # after the end of the report, within the slack
    both, only = visit(late, late + 100, 1), visit(1000, 1100, 2)
    car = msgspec.structs.replace(visit(1000, 1100, 3), label="car")
    days.see(both, only, car)
    compared = days.compare()
    assert [
        (each.hour, each.event, each.reported, each.camera_only, each.objects, each.framegate_only)
        for each in compared.hours
    ] == [
        (_hour(HOUR), "person", 1, 1, 0, 0),
        (_hour(0), "person", 1, 0, 2, 1),
    ]
    assert [(each.only, each.id) for each in compared.disagreements] == [
        ("camera", alone), ("framegate", only.id)
    ]  # fmt: skip
    assert compared.disagreements[1].label == "person"
    assert (compared.disagreements[0].epoch, compared.disagreements[0].pts) == (1, HOUR / S)
    assert (compared.sources, compared.is_whole, compared.more) == (["door"], True, 0)
    assert days.compare(limit=1).more == 1


def _hour(frame: int) -> float:
    return (BEGAN + frame / S) // 3600 * 3600


def test_motion_is_any_object_that_moves(days: Days) -> None:
    days.report(100, 200, "motion")
    days.report(1000, 1100, "motion")
    parked = msgspec.structs.replace(visit(3000, 4000, 1), label="car", dwell_s=99.5)
    passing = msgspec.structs.replace(visit(150, 300, 2), label="car")
    days.see(parked, passing)
    compared = days.compare()
    [hour] = compared.hours
    assert (hour.reported, hour.camera_only, hour.objects, hour.framegate_only) == (2, 1, 1, 0)


def test_an_object_that_is_there_is_no_disagreement_before_its_visit_ends(days: Days) -> None:
    days.say(50, change("start", 50, 50, rule="inside"))
    days.report(100, 200, "person")
    assert days.compare().disagreements == []


def test_a_camera_is_compared_only_while_it_answers(days: Days) -> None:
    """From its first report on; and not while it was unknown whether it reports something."""
    days.see(visit(10, 30, 1))
    assert days.compare().sources == []
    days.report(1000, 1100, "person")
    days.say(2000, unknown=("camera_person",))
    days.say(3000, known=("camera_person",))
    days.see(visit(2500, 2600, 2), visit(4000, 4100, 3))
    alone = [each for each in days.compare().disagreements if each.only == "framegate"]
    assert [each.id for each in alone] == ["door/1-4000/3"]


def test_reports_of_the_last_minute_are_left_out(days: Days) -> None:
    """Their visits may not be stored so far."""
    days.report(1000, 1100, "person")
    assert days.compare(now=BEGAN + 100 + 59).hours == []
    assert len(days.compare(now=BEGAN + 100 + 61).hours) == 1
