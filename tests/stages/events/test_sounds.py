"""Rules about sounds: what was heard comes with the frames' results, and joins pictures there."""

from __future__ import annotations

import msgspec
import pytest

from framegate.pipeline.contracts.results import (
    Result,
    SoundLabel,
    SoundOutcome,
    Sounds,
    SoundWindow,
)
from tests.support.episodes import FPS, check, result, rules, seen, told

GLASS = """
[events.areas]
room = { points = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]] }
[events.rules.glass]
when = "state"
state = "heard"
labels = ["Glass", "Shatter"]
"""
BURGLAR = (
    GLASS
    + """
[events.rules.burglar]
when = "inside"
area = "room"
labels = ["person"]
after = { rule = "glass", within_s = 10 }
"""
)
EVERY = 12  # frames from one window to the next


def heard(seconds: float, first: int = 0, /, **labels: tuple[float, float]) -> list[Result]:
    """Results of an empty picture with a window of sound in each twelfth.

    labels  from when until when each is heard, in seconds
    """
    found = []
    for n in range(first, first + round(seconds * FPS)):
        sounds = None
        if n % EVERY == EVERY - 1:
            at = n / FPS
            there = [SoundLabel(label, 0.6) for label, (a, b) in labels.items() if a <= at < b]
            sounds = window(n // EVERY, *there)
        found.append(result([], n, sounds=sounds))
    return found


def window(block: int, *labels: SoundLabel, outcome: SoundOutcome = "heard") -> Sounds:
    ends = (block + 1) * EVERY / FPS
    return Sounds(1, (SoundWindow(block, ends - 0.975, ends, outcome, -20.0, labels),), 0, "y@1")


def test_a_sound_is_an_episode_from_the_first_window_with_it_to_the_last() -> None:
    found = told(rules(GLASS), heard(10.0, Shatter=(2.0, 3.2)))
    [start], [end] = found.of("glass", "start"), found.of("glass", "end")
    assert (start.label, start.value, start.models) == ("Shatter", 0.6, ("y@1",))
    assert start.began == start.told, "one window is enough"
    assert start.began.media_s == pytest.approx(59 / FPS)  # the fifth window ends there
    assert end.last.media_s == pytest.approx(82 / FPS), "it sounds so until the next window"
    assert (end.ended_by, end.bridged, end.unsure) == ("over", False, False)
    assert (end.sightings, end.held) == (2, 22)
    assert not told(rules(GLASS + "min_score = 0.7\n"), heard(10.0, Shatter=(2.0, 3.2))).changes
    assert not told(rules(GLASS), heard(10.0, Speech=(0.0, 9.0))).changes


def test_frames_of_which_nothing_else_is_known_are_heard_too() -> None:
    failed = [
        msgspec.structs.replace(one, outcome="failed", looked="no", reason="stage_error")
        for one in heard(10.0, Glass=(2.0, 3.2))
    ]
    assert [one.step for one in told(rules(GLASS), failed).changes] == ["start", "end"]


def test_where_nobody_listened_nobody_knows_whether_it_goes_on() -> None:
    there = heard(3.0, Glass=(2.0, 3.0))
    lost = [
        result([], n, sounds=Sounds(1, (), 1) if n % EVERY == EVERY - 1 else None)
        for n in range(75, 125)
    ]
    again = heard(5.0, 125, Glass=(5.0, 6.0))
    [start, end] = told(rules(GLASS), [*there, *lost, *again]).changes
    assert (start.step, end.step, end.bridged, end.unsure) == ("start", "end", True, False)
    deaf = [result([], n) for n in range(250)]
    assert told(rules(GLASS), deaf).changes == []


def test_a_sound_track_that_stops_ends_what_was_heard_in_it() -> None:
    stops = [
        msgspec.structs.replace(one, sounds=one.sounds if n < 75 else None)
        for n, one in enumerate(heard(20.0, Glass=(2.0, 20.0)))
    ]
    end = told(rules(GLASS), stops).changes[-1]
    assert (end.ended_by, end.unsure) == ("unseen", False)
    assert end.last.media_s == pytest.approx(71 / FPS + 1.5, abs=0.05)


def test_what_is_left_of_a_sound_track_that_ended_long_ago_begins_nothing() -> None:
    left = [result([], n) for n in range(249)]
    left.append(result([], 249, sounds=window(0, SoundLabel("Glass", 0.6))))
    assert told(rules(GLASS), left).changes == []


def test_a_frame_brings_the_sounds_of_the_frames_that_were_dropped_before_it() -> None:
    entries = [result([], n) for n in range(25)]
    entries.append(result([], 125, sounds=window(3, SoundLabel("Glass", 0.6))))
    [start] = told(rules(GLASS), entries).of("glass", "start")
    assert start.label == "Glass"


def test_what_sounds_as_before_begins_nothing() -> None:
    """The network did not listen: its labels are of a window before."""
    label = SoundLabel("Glass", 0.6)
    one = [
        result([], n, sounds=window(0, label, outcome="unchanged") if n == 11 else None)
        for n in range(50)
    ]
    assert told(rules(GLASS), one).changes == []


@pytest.mark.parametrize(("comes_at", "is_told"), [(9.0, True), (14.0, False)])
def test_glass_then_a_person_inside_ten_seconds(comes_at: float, is_told: bool) -> None:
    entries = [
        msgspec.structs.replace(one, objects=(seen(1, (100.0, 180.0)),))
        if one.pts is not None and one.pts >= comes_at
        else one
        for one in heard(20.0, Glass=(2.0, 3.2))
    ]
    found = told(rules(BURGLAR), entries, ends=True)
    assert len(found.of("burglar", "start")) == is_told
    check(found.changes)
    alone = [msgspec.structs.replace(one, sounds=None) for one in entries]
    assert told(rules(BURGLAR), alone).changes == []
