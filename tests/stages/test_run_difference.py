"""The differences of two runs, told by hand from results and episodes that the test makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.review.search import Episode
from framegate.stages.run_difference import (
    EpisodeDifference,
    FrameDifference,
    SourceComparison,
    TrackDifference,
)
from tests.support.episodes import result, seen

FOOT = (100.0, 100.0)
FAR = (300.0, 100.0)


def run(*frames: Sequence[Object], **more: Any) -> list[Result]:
    """The results of a run: the objects of each frame."""
    return [result(objects, seq, **more) for seq, objects in enumerate(frames)]


def compared(
    before: Sequence[Result], after: Sequence[Result]
) -> tuple[list[FrameDifference], list[TrackDifference]]:
    comparison = SourceComparison("door", before)
    return list(comparison.frames(after)), comparison.tracks()


def test_runs_with_other_epochs_and_numbers_of_tracks_are_equal() -> None:
    before = run([seen(1, FOOT), seen(2, FAR)], [seen(1, FOOT)])
    after = run([seen(8, FAR), seen(7, FOOT)], [seen(7, FOOT)], epoch=5)
    assert compared(before, after) == ([], [])


def test_epochs_are_counted_from_the_first_of_each_run() -> None:
    before = run([seen(1, FOOT)], epoch=3) + run([seen(2, FAR)], epoch=9)
    after = run([seen(1, FOOT)], epoch=1) + run([seen(2, FAR)], epoch=2)
    assert compared(before, after) == ([], [])


def test_a_frame_says_what_only_one_run_has_and_what_changed() -> None:
    lost, same = seen(1, FAR), seen(2, FOOT)
    moved = seen(2, (FOOT[0] + 2, FOOT[1]))
    new = seen(3, FAR, label="car")
    [difference], _ = compared(run([lost, same]), run([moved, new]))
    assert difference == FrameDifference(
        "door", "1-0", "1-0", 0.0, (lost,), (new,), ((same, moved),)
    )


def test_a_frame_that_one_run_lacks_is_told_with_its_objects() -> None:
    frames = [[seen(1, FOOT)], [seen(1, FOOT)], [seen(1, FOOT)]]
    whole = run(*frames)
    comparison = SourceComparison("door", whole)
    [difference] = comparison.frames([whole[0], whole[2]])
    assert (difference.before, difference.after) == ("1-1", None)
    assert (difference.lost, difference.new) == (tuple(frames[1]), ())
    assert (comparison.both, comparison.only_before, comparison.only_after) == (2, 1, 0)
    comparison = SourceComparison("door", whole[:1])
    assert [each.after for each in comparison.frames(whole)] == ["1-1", "1-2"]
    assert (comparison.both, comparison.only_before, comparison.only_after) == (1, 0, 2)


def test_frames_without_times_are_paired_by_their_numbers() -> None:
    before = run([seen(1, FOOT)], [], pts=None)
    after = run([seen(1, FOOT)], [seen(1, FOOT)], pts=None)
    [difference], _ = compared(before, after)
    assert (difference.before, difference.after, difference.pts) == ("1-1", "1-1", None)


def test_frames_with_the_same_time_are_paired_in_their_order() -> None:
    """A time stamp can occur twice: the second frame is not the first one."""
    before = [result([seen(1, FOOT)], 0, pts=1.0), result([seen(1, FAR)], 1, pts=1.0)]
    assert compared(before, before) == ([], [])
    other = [result([seen(1, FAR)], 0, pts=1.0), result([seen(1, FAR)], 1, pts=1.0)]
    [difference], _ = compared(before, other)
    assert (difference.before, difference.after) == ("1-0", "1-0")


def test_frames_with_times_out_of_order_are_paired() -> None:
    before = [result([seen(1, FOOT)], n, pts=at) for n, at in enumerate([0.0, 0.2, 0.1, 0.3])]
    after = [result([seen(1, FOOT)], n, pts=at) for n, at in enumerate([0.0, 0.1, 0.2, 0.3])]
    assert compared(before, after) == ([], [])


def test_only_frames_near_the_compared_one_are_in_memory() -> None:
    read = []

    def results(name: str) -> Iterator[Result]:
        for number in range(1000):
            read.append((name, number))
            yield result([], number)

    comparison = SourceComparison("door", results("before"))
    for _ in comparison.frames(results("after")):
        pytest.fail("they are equal")
    numbers = [number for _, number in read]
    assert max(abs(a - b) for a, b in itertools.pairwise(numbers)) == 1
    assert comparison.both == 1000


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([1, 1, 1], [4, 4, 9], [((1,), (4, 9))], id="split"),
        pytest.param([1, 1, 2], [4, 4, 4], [((1, 2), (4,))], id="joined"),
        pytest.param([1, None, None], [None, None, None], [((1,), ())], id="lost"),
        pytest.param([None, None, 3], [5, 5, 5], [], id="the same, seen later"),
    ],
)
def test_tracks_that_are_not_one_and_one(
    before: list[int | None], after: list[int | None], expected: list[Any]
) -> None:
    """Objects without a number are in no track."""
    _, tracks = compared(
        run(*([seen(track, FOOT)] for track in before)),
        run(*([seen(track, FOOT)] for track in after)),
    )
    assert [(each.before, each.after) for each in tracks] == expected
    assert {each.label for each in tracks} <= {"person"}


def episode(rule: str, at: float, seconds: float = 2.0, **more: Any) -> Episode:
    began, last = Moment(1, 0, at, at), Moment(1, 9, at + seconds, at + seconds)
    usual: dict[str, Any] = {
        "id": f"door/{rule}/1-{at}/0", "source": "door", "rule": rule, "version": "0a1b2c3d",
        "when": "inside", "severity": "alert", "told": began, "began": began, "last": last,
        "seconds": seconds, "label": "person", "tracks": (1,), "value": None, "direction": None,
        "box": None, "sightings": 1, "held": 0, "models": (), "unsure": False, "bridged": False,
        "ended_by": "over", "clip": None, "muted": None, "traits": None, "verdict": None,
    }  # fmt: skip
    return msgspec.convert({**usual, **more}, Episode, strict=False, from_attributes=True)


def test_episodes_of_a_rule_that_begin_together_are_the_same() -> None:
    before = [episode("gate", 1.0), episode("gate", 5.0), episode("porch", 5.0)]
    after = [episode("gate", 1.4, 2.0), episode("gate", 5.0, 3.0), episode("gate", 7.0)]
    comparison = SourceComparison("door", run([]))
    list(comparison.frames(run([])))
    assert comparison.episodes(before, after) == [
        EpisodeDifference("door", "gate", before[0], after[0], ("began",)),
        EpisodeDifference("door", "gate", before[1], after[1], ("seconds",)),
        EpisodeDifference("door", "gate", None, after[2]),
        EpisodeDifference("door", "porch", before[2], None),
    ]


def test_the_closest_beginnings_belong_together() -> None:
    before = [episode("gate", 1.0), episode("gate", 1.4)]
    after = [episode("gate", 1.3)]
    comparison = SourceComparison("door", run([]))
    list(comparison.frames(run([])))
    found = comparison.episodes(before, after)
    assert [(each.before, each.after) for each in found] == [
        (before[0], None), (before[1], after[0]),
    ]  # fmt: skip
