"""Rules about the events that a camera itself reports: they come with the frames' results."""

from __future__ import annotations

import msgspec
import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import CameraEvent
from tests.support.episodes import FPS, check, result, rules, told

RULE = """
[events.rules.camera_person]
when = "state"
state = "reported"
labels = ["person", "motion"]
"""
SOURCES = '[sources.a]\nurl = "rtsp://cam/1"\n'


def reported(seconds: float, first: int = 0, /, **events: tuple[float, float]) -> list[Result]:
    """Results of an empty picture. events: from when until when the camera reports each, seconds"""
    results = []
    for n in range(first, first + round(seconds * FPS)):
        there = tuple(kind for kind, (a, b) in events.items() if a <= n / FPS < b)
        kinds = msgspec.convert(there, tuple[CameraEvent, ...])
        results.append(msgspec.structs.replace(result([], n), camera_events=kinds))
    return results


def unknown(results: list[Result]) -> list[Result]:
    return [msgspec.structs.replace(each, camera_events=None) for each in results]


def test_an_event_of_the_camera_is_an_episode_while_it_lasts() -> None:
    found = told(rules(RULE), reported(10.0, person=(2.0, 5.0), line=(6.0, 7.0)))
    [start] = found.of("camera_person", "start")
    [end] = found.of("camera_person", "end")
    assert (start.label, start.began.seq) == ("person", round(2 * FPS))
    assert (end.ended_by, end.last.seq) == ("over", round(5 * FPS) - 1)
    check(found.changes)


def test_one_frame_with_an_event_is_an_episode() -> None:
    found = told(rules(RULE), reported(10.0, motion=(2.0, 2.01)))
    assert [each.label for each in found.of("camera_person", "start")] == ["motion"]
    assert len(found.of("camera_person", "end")) == 1


def test_a_camera_that_does_not_answer_is_unknown() -> None:
    """The episode bridges a short silence, and ends as unseen after a long one."""
    begun = reported(5.0, motion=(2.0, 5.0))
    silence = unknown(reported(2.0, round(5 * FPS)))
    again = reported(5.0, round(7 * FPS), motion=(7.0, 9.0))
    found = told(rules(RULE), begun + silence + again)
    [end] = found.of("camera_person", "end")
    assert (end.ended_by, end.last.seq) == ("over", round(9 * FPS) - 1)
    found = told(rules(RULE), begun + unknown(reported(10.0, round(5 * FPS))))
    [end] = found.of("camera_person", "end")
    assert end.ended_by == "unseen"
    assert not told(rules(RULE), unknown(reported(5.0))).changes


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (RULE.replace("person", "persn"), "'persn' is no event of a camera; allowed: motion"),
        (RULE.replace('labels = ["person", "motion"]', ""), "labels: missing; name events"),
        (RULE.replace("reported", "lost"), 'state = "reported"'),
        (SOURCES + RULE + 'source = "a"', 'add events = "onvif" to \\[sources.a\\]'),
    ],
)
def test_a_wrong_rule_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=fault):
        read_config("pipeline.toml", text)
