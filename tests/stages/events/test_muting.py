"""Episodes that a learned filter mutes: the traits by hand, and what the filter changes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate.pipeline.config.events import rules_to_mute
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.object_filters import ObjectFilter, digest_of, dropping, muting
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.stage import Context
from framegate.pipeline.contracts.traits import Traits, log_odds
from framegate.stages.events.stage import Episodes
from tests.support.episodes import result, rules, seen, standing, told

LEFT_IS_FALSE = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # x < 0.5: log odds below 0
RULES = """
[events.areas.all]
points = [[0, 0], [1, 0], [1, 1], [0, 1]]
[events.lines.gate]
points = [[0.5, 0.0], [0.5, 1.0]]
[events.rules.visitor]
when = "inside"
area = "all"
for_s = 1
[events.rules.gate]
when = "crosses"
line = "gate"
[events.rules.crowd]
when = "count"
area = "all"
at_least = 2
"""


def learned(rule: str, name: str = "muted_1") -> dict[str, ObjectFilter]:
    return {name: ObjectFilter(("door",), rule=rule, weights=LEFT_IS_FALSE)}


def frames(**more: Any) -> list[Any]:
    """Two people, who stand left and right of the middle for three seconds of 25 frames."""
    people = [(1, standing(160, 300)), (2, standing(480, 300))]
    return [result([seen(n, at(0), **more) for n, at in people], k) for k in range(75)]  # type: ignore[misc]


def plain(changes: list[Change]) -> list[Change]:
    return [msgspec.structs.replace(each, muted=None) for each in changes]


def test_a_filter_marks_all_changes_of_its_episodes_and_changes_nothing_else() -> None:
    every = told(rules(RULES), frames(), ends=True)
    some = told(rules(RULES), frames(), ends=True, filters=learned("visitor"))
    assert plain(some.changes) == every.changes
    marked = [(each.tracks, each.step) for each in some.changes if each.muted]
    assert marked == [((1,), "start"), ((1,), "end")]
    assert {each.muted for each in some.changes} == {
        None,
        f"muted_1/{digest_of(LEFT_IS_FALSE)}",
    }


def test_an_episode_stays_muted_if_the_filter_goes_before_its_end() -> None:
    first = told(rules(RULES), frames()[:50], filters=learned("visitor"))
    last = told(rules(RULES), frames()[50:], first.state, ends=True)
    ends = [(each.tracks, each.muted is not None) for each in last.of("visitor", "end")]
    assert ends == [((1,), True), ((2,), False)]


def test_a_filter_mutes_only_the_version_of_the_rule_that_it_was_learned_for() -> None:
    config = rules(RULES)
    version = rules_to_mute(config)["visitor"]
    of_version = {"m": replace(learned("visitor")["muted_1"], rule_version=version)}
    of_another = {"m": replace(learned("visitor")["muted_1"], rule_version="00000000")}
    starts = told(config, frames(), filters=of_version).of("visitor", "start")
    assert {each.version for each in starts} == {version}
    assert [each.muted is not None for each in starts] == [True, False]
    starts = told(config, frames(), filters=of_another).of("visitor", "start")
    assert [each.muted for each in starts] == [None, None]


def test_the_traits_are_those_of_the_frame_of_the_start() -> None:
    """Scores .5 and .9 by turns; the start is told after a second, in frame 25."""
    entries = [
        result([seen(1, (160, 300), score=(0.5, 0.9)[k % 2], origin=origin)], k)
        for k, origin in enumerate(["detected", "detected", "carried", "carried"] * 8)
    ]
    [start] = told(rules(RULES), entries).of("visitor", "start")
    assert start.told.seq == 25
    assert start.traits is not None
    found = msgspec.structs.asdict(start.traits)
    # 14 of the frames 0 to 25 are sightings, by turns .5 and .9. A person is 20 x 40 of 640 x 360.
    assert found.pop("score") == pytest.approx(0.7, abs=0.002)
    assert found == {
        "height": round(40 / 360, 4), "aspect": 2.0, "x": 0.25, "y": round(300 / 360, 4),
        "speed": 0.0, "age_s": 1.0, "still_s": 1.0, "held": round(12 / 26, 4),
    }  # fmt: skip


def test_a_crossing_has_the_speed_of_its_object_and_a_count_has_no_traits() -> None:
    """200 pixels a second are 5 heights of 40 pixels; the speed is smoothed, from 0 on."""
    walk = [result([seen(1, (160 + 8 * k, 300)), seen(2, (100, 200))], k) for k in range(60)]
    heard = told(rules(RULES), walk, filters={**learned("gate"), **learned("crowd", "muted_2")})
    [start] = heard.of("gate", "start")
    assert start.traits is not None
    assert 4 < start.traits.speed <= 5
    assert [each.muted for each in heard.of("gate")] == [None, None], "it is told beyond the line"
    [crowd] = heard.of("crowd", "start")
    assert (crowd.traits, crowd.muted) == (None, None)


@pytest.mark.parametrize("has_new_rules", [False, True])
def test_a_crossing_that_only_the_end_confirms_is_muted(
    has_new_rules: bool, tmp_path: Path
) -> None:
    """An end is the first call of a worker that was restarted, and of rules after a click."""
    config = rules(RULES)
    walk = [result([seen(1, (400 - 8 * k, 300))], k) for k in range(12)]  # 8 pixels beyond it
    before = told(config, walk)
    assert before.changes == []
    options = None
    if has_new_rules:
        options = msgspec.to_builtins(config)

    def never(*_: Any) -> Any:
        raise AssertionError("rules need no such service")

    context = Context(
        pixels=never, now=never, folder=tmp_path, before="publish", plane=never, ring=never,
        asks=never, user_cache=tmp_path, filters=lambda _: learned("gate"), options=lambda: options,
    )  # fmt: skip
    changes, _ = Episodes(config, context).end("door", End(1, 12, True), before.state)
    assert changes is not None
    start = changes.changes[0]
    assert start.traits is not None
    assert (start.traits.x, start.traits.y) == (round(312 / 640, 4), round(300 / 360, 4))
    marked = [(each.rule, each.step, each.muted is not None) for each in changes.changes]
    assert marked == [("gate", "start", True), ("gate", "end", True)]


def test_the_log_odds_are_a_weighted_sum() -> None:
    traits = Traits(0.8, 0.15, 1.0, 0.5, 0.75, math.e - 1, 0.0, 0.0, 0.25)
    assert traits.features() == pytest.approx((math.log(4), 0, 0, 0, 0.5, 1, 0, 0, 0.25))
    weights = (1.0, 2.0, 0.0, 0.0, 0.0, 4.0, 8.0, 0.0, 0.0, -4.0)
    assert log_odds(weights, traits) == pytest.approx(1 + 2 * math.log(4) + 2 + 8 - 1)


def test_filters_that_mute_drop_no_objects() -> None:
    area = ObjectFilter(area=((0, 0), (1, 0), (1, 1)))
    both = {"street": area, **learned("visitor")}
    assert dropping(both) == {"street": area}
    assert muting(both).keys() == {"visitor"}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"rule": "visitor"}, "must have a rule, its weights"),
        ({"weights": LEFT_IS_FALSE, "sources": ("door",)}, "must have a rule, its weights"),
        ({"rule": "visitor", "weights": LEFT_IS_FALSE}, "exactly one source"),
        (
            {"rule": "r", "weights": LEFT_IS_FALSE, "sources": ("a",), "labels": ("car",)},
            "must have no labels",
        ),
    ],
)
def test_a_filter_that_mutes_has_a_rule_a_source_and_weights_only(keys: Any, fault: str) -> None:
    assert fault in "\n".join(ObjectFilter(**keys).faults())
