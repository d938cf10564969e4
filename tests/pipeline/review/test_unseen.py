"""Times that were not seen: between watched ones, in gaps of recordings, of unknown rules; sums."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorder_states import RecorderState, RecordingGap
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
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


def watched(*spans: tuple[float, float], source: str = "door") -> list[Watched]:
    return [Watched(source, n, since, until) for n, (since, until) in enumerate(spans, 1)]


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
        UnseenTime("door", "not_watched", 200.0, 300.0, why="no_run"),
        UnseenTime("yard", "not_recorded", 110.0, 120.0, why="disk_full"),
    ]
    assert (seen.until, seen.knows, seen.more) == (NOW, ["episodes", "recordings"], False)
    assert seen.dropped == [DroppedFrames("door", "burst", 2)]
    only = unseen_in(tmp_path, 110.0, NOW, NOW, {"yard"})
    assert [each.source for each in only.times] == ["yard"]
    assert known_sources(tmp_path) == ["door", "gate", "yard"]


def test_a_source_that_left_before_its_first_frame_has_no_time_before_it_came(
    tmp_path: Path,
) -> None:
    projection = Projection(tmp_path / FILE)
    projection.watch([Watched("door", 1, 100.0, 200.0)])
    projection.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        row = "INSERT INTO unknown VALUES ('gate', 'visitor', 1, ?, ?, ?, 0)"
        database.executemany(row, [(1, 150.0, 149.0), (2, 160.0, 161.0)])
    times = unseen_in(tmp_path, 100.0, 200.0, 200.0).times
    assert times == [UnseenTime("gate", "rule_unknown", 160.0, 161.0, rule="visitor")]


def test_a_reason_in_words_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Index(tmp_path)) as index:
        add_segment(index, "gate", 0, 100.0)
        why = "the disk is full (record.free_bytes stay free)"
        index.recorders.note(RecorderState("gate", 500.0, None, why, 1))
    assert main(["unseen", "-d", str(tmp_path)]) == 0
    assert f"not recorded: {why}" in capsys.readouterr().out


def test_a_time_that_was_not_watched_has_the_reason_of_the_epoch_before_it() -> None:
    refused = "unreachable: rtsp://door:554/: connection refused"
    spans = [
        Watched("door", 1, 100.0, 200.0, refused),
        Watched("door", 2, 300.0, 400.0, ""),  # no end of it is stored
        Watched("door", 3, 500.0, 600.0, None),  # by an older version
        Watched("door", 4, 700.0, 800.0, "ended"),
        Watched("door", 5, 900.0, 900.0, "permission: rtsp://door:554/: login refused"),  # never
    ]
    found = not_watched(spans, {"door": 100.0}, 0.0, 1000.0, 1000.0, None)
    assert [(each.since, each.until, each.why, each.detail) for each in found] == [
        (200.0, 300.0, "unreachable", "rtsp://door:554/: connection refused"),
        (400.0, 500.0, "no_run", ""),
        (600.0, 700.0, "", ""),
        (800.0, 900.0, "ended", ""),
    ]
    [still] = not_watched(spans, {"door": 100.0}, 950.0, 1200.0, 1200.0, None)
    assert (still.since, still.until, still.why) == (950.0, None, "permission")
    [sum_] = sums_of([still], 1200.0)
    assert (sum_.why, sum_.seconds) == ("permission", 250.0)


def test_the_reason_at_the_begin_of_a_span_is_that_of_the_time_before_it(tmp_path: Path) -> None:
    projection = Projection(tmp_path / FILE)
    projection.watch([Watched("door", 1, 100.0, 200.0, "stalled: no frame for 5.0 s")])
    projection.watch([Watched("door", 2, 5000.0, 6000.0)])
    projection.close()
    [time] = unseen_in(tmp_path, 1000.0, 5500.0, 6000.0).times
    assert (time.since, time.until, time.why) == (1000.0, 5000.0, "stalled")
    assert time.detail == "no frame for 5.0 s"


def test_times_of_an_older_version_have_no_reason(tmp_path: Path) -> None:
    file = tmp_path / FILE
    projection = Projection(file)
    projection.watch([Watched("door", 1, 100.0, 200.0), Watched("door", 2, 300.0, 400.0)])
    projection.close()
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE watched DROP COLUMN why")
        database.execute("PRAGMA user_version = 7")
        database.commit()
    for _ in range(2):  # upgraded in memory by a reader, then in the file by a run
        [time] = unseen_in(tmp_path, 0.0, 400.0, 400.0).times
        assert (time.since, time.until, time.why) == (200.0, 300.0, "")
        Projection(file).close()
    projection = Projection(file)
    projection.watch([Watched("door", 1, 100.0, 200.0, "closed: the camera ended the stream")])
    projection.close()
    [time] = unseen_in(tmp_path, 0.0, 400.0, 400.0).times
    assert (time.why, time.detail) == ("closed", "the camera ended the stream")


def test_a_camera_that_connects_all_the_time_hides_no_other(tmp_path: Path) -> None:
    spans = [(at, at + 2.0) for at in map(float, range(0, 4 * 5001, 4))]
    end = spans[-1][1]
    projection = Projection(tmp_path / FILE)
    projection.watch([*watched(*spans), Watched("yard", 1, 0.0, end)])
    projection.close()
    seen = unseen_in(tmp_path, 0.0, end, end)
    assert {each.source for each in seen.times} == {"door"}
    assert seen.more
    [door] = seen.sums
    assert door.times == 4998, "those after the third of 5001 connections"
