"""Times that were not seen: between watched ones, in gaps of recordings, of unknown rules; sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorder_states import RecorderState, RecordingGap
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.review.search import SeenStretch
from framegate.pipeline.review.unseen import (
    LATE_S,
    DroppedFrames,
    UnseenSum,
    UnseenTime,
    known_sources,
    not_watched,
    sums_of,
    unseen_in,
)
from tests.support.recorded import add_segment

NOW = 10_000.0


def watched(*spans: tuple[float, float], source: str = "door") -> list[SeenStretch]:
    return [SeenStretch(source, "", since, until) for since, until in spans]


@pytest.mark.parametrize(
    ("spans", "first", "since", "until", "times"),
    [
        ([(0, 10_000)], 0, 0, NOW, []),
        ([(100, 200), (300, 9_990)], 100, 0, NOW, [(200, 300)]),
        ([(100, 200), (300, 9_990)], 0, 50, NOW, [(50, 100), (200, 300)]),
        ([(0, 200), (200.5, 9_990)], 0, 0, NOW, []),  # connected again at once
        ([(0, 300), (200, 250), (400, 9_990)], 0, 0, NOW, [(300, 400)]),  # epochs that overlap
        ([(0, NOW - LATE_S - 1)], 0, 0, NOW, [(NOW - LATE_S - 1, None)]),
        ([(0, NOW - LATE_S + 1)], 0, 0, NOW, []),  # the newest times are not stored so far
        ([(0, 500)], 0, 0, 2_000, [(500, 2_000)]),  # a span that ended before now
        ([], 0, 1_000, 2_000, [(1_000, 2_000)]),
        ([], 5_000, 1_000, 2_000, []),  # it was first watched later
    ],
)
def test_times_between_watched_ones_were_not_watched(
    spans: list[tuple[float, float]],
    first: float,
    since: float,
    until: float,
    times: list[tuple[float, float | None]],
) -> None:
    found = not_watched(watched(*spans), {"door": first}, since, until, NOW, None)
    assert [(each.since, each.until) for each in found] == times


def test_a_source_that_was_removed_is_not_missed_after_its_last_frame() -> None:
    spans = watched((0, 100), (200, 300))
    found = not_watched(spans, {"door": 0.0}, 0.0, NOW, NOW, {"yard"})
    assert [(each.since, each.until) for each in found] == [(100, 200)]


def test_sums_have_the_longest_first_and_count_open_ones_up_to_now() -> None:
    times = [
        UnseenTime("door", "not_recorded", 10.0, 20.0, why="disk_full"),
        UnseenTime("door", "not_recorded", 30.0, 35.0, why="disk_full"),
        UnseenTime("yard", "not_watched", 900.0, None),
    ]
    assert sums_of(times, 1000.0) == [
        UnseenSum("yard", "not_watched", "", "", 1, 100.0, True),
        UnseenSum("door", "not_recorded", "", "disk_full", 2, 15.0, False),
    ]


def test_a_folder_tells_all_that_is_known(tmp_path: Path) -> None:
    assert known_sources(tmp_path) == []
    projection = Projection(tmp_path / FILE)
    projection.watch([Watched("door", 1, 100.0, 200.0), Watched("door", 2, 300.0, NOW)])
    projection.close()
    index = Index(tmp_path)
    add_segment(index, "yard", 0, 100.0)
    index.recorders.note_gap(RecordingGap("yard", 104.0, 120.0, "disk_full"))
    index.recorders.note(RecorderState("gate", 500.0, None, "the disk is full", 1))
    index.close()
    seen = unseen_in(tmp_path, 110.0, NOW + 50, NOW, drops={"door": {"burst": 2, "replaced": 0}})
    assert seen.times == [
        UnseenTime("gate", "not_recorded", 500.0, None, why="the disk is full"),
        UnseenTime("door", "not_watched", 200.0, 300.0),
        UnseenTime("yard", "not_recorded", 110.0, 120.0, why="disk_full"),
    ]
    assert (seen.until, seen.knows, seen.more) == (NOW, ["episodes", "recordings"], False)
    assert seen.dropped == [DroppedFrames("door", "burst", 2)]
    only = unseen_in(tmp_path, 110.0, NOW, NOW, {"yard"})
    assert [each.source for each in only.times] == ["yard"]
    assert known_sources(tmp_path) == ["door", "gate", "yard"]
