"""Rules that change between two frames: which episodes end, and which ids come after."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.stages.events.rulebook import Rulebook
from framegate.stages.events.state import EventsState
from tests.support.episodes import check, results, rules, standing, told

AREAS = """
[events.areas.left]
points = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]
[events.areas.right]
points = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]
"""
TWO = f"""{AREAS}
[events.rules.here]
when = "inside"
area = "left"
[events.rules.there]
when = "inside"
area = "right"
"""
LOST = """
[events.rules.gone]
when = "state"
state = "lost"
"""


Step = tuple[str, Sequence[Result | End]]
"""A configuration, and the entries that are judged under it."""


def through(
    steps: Sequence[tuple[str, Sequence[Result | End]]],
) -> tuple[list[Change], EventsState]:
    """Judge entries under one configuration after the other."""
    state = EventsState()
    changes: list[Change] = []
    for text, entries in steps:
        judged = told(rules(text), entries, state)
        state = judged.state
        changes += judged.changes
    return changes, state


def in_both(first: int, seconds: float) -> list[Result]:
    paths = {1: standing(100, 300), 2: standing(500, 300)}
    found = results(paths, seconds, first)
    return [msgspec.structs.replace(each, pts=each.seq / 25) for each in found]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('when = "inside"\narea = "left"', 'when = "inside"\narea = "left"\nseverity = "alert"'),
        ("[[0.0, 0.0], [0.5", "[[0.0, 0.1], [0.5"),
        ('when = "inside"\narea = "left"', 'when = "inside"\narea = "left"\nenabled = false'),
    ],
)
def test_only_the_episode_whose_rule_or_area_changed_ends(before: str, after: str) -> None:
    changed = TWO.replace(before, after, 1)
    assert changed != TWO
    changes, _ = through([(TWO, in_both(0, 2.0)), (changed, in_both(50, 2.0))])
    check(changes, all_over=False)
    (end,) = [each for each in changes if each.step == "end"]
    assert (end.rule, end.ended_by, end.told.seq) == ("here", "rule_changed", 50)
    begun = [(each.rule, each.began.seq) for each in changes if each.step == "start"]
    again = [] if "enabled" in after else [("here", 50)]
    assert begun == [("here", 0), ("there", 0), *again]


def test_a_camera_that_is_away_gives_no_id_twice() -> None:
    """It stays at one position, where the rule ends and begins again with each change."""
    off = LOST + "enabled = false\n"
    texts = [LOST, LOST + "for_s = 0.5\n", off, LOST, LOST + "until_s = 3\n", TWO, LOST]
    away = [End(1, 0, False, away_s=float(number)) for number in range(1, 20)]
    steps: list[Step] = [(LOST, [*in_both(0, 1.0), End(1, 25, False)])]
    for number, text in enumerate(itertools.islice(itertools.cycle(texts), 19)):
        steps.append((text, [away[number]]))
    changes, state = through([*steps, (LOST, in_both(26, 2.0))])
    check(changes, all_over=False)
    assert len({each.episode for each in changes}) > 8
    assert state.ended == {}


def in_profile(profile: str, text: str) -> str:
    """Return rules of which `gone` belongs to the profile `on`, with the selected profile."""
    profiles = '[events.profiles.on]\nrules = ["gone"]\n[events.profiles.off]\nrules = []\n'
    return f'{text}{profiles}[events]\nprofile = "{profile}"\n'


@pytest.mark.parametrize("text", [LOST + "enabled = false\n", in_profile("off", LOST)])
def test_a_rule_that_is_not_active_does_not_see_that_a_camera_is_away(text: str) -> None:
    away: Step = (text, [End(1, 0, False), End(1, 0, False, away_s=5.0)])
    changes, _ = through([(text, in_both(0, 1.0)), away])
    assert changes == []


@pytest.mark.parametrize("outcome", ["enabled = false", "profile"])
def test_a_rule_that_is_not_active_does_not_see_failed_frames(outcome: str) -> None:
    failed = LOST.replace('"lost"', '"failed"')
    text = in_profile("off", failed)
    if outcome != "profile":
        text = f"{failed}{outcome}\n"
    entries = [msgspec.structs.replace(each, outcome="failed") for each in in_both(0, 1.0)]
    changes, _ = through([(text, entries)])
    assert changes == []


def test_profiles_that_change_while_a_camera_is_away_give_no_id_twice() -> None:
    """The camera stays at one position, where the episode ends and begins with each profile."""
    rule = LOST + "until_s = 0\n"
    on, off = in_profile("on", rule), in_profile("off", rule)
    steps: list[Step] = [(on, [*in_both(0, 1.0), End(1, 25, False)])]
    for number in range(1, 9):
        text = off if number % 2 else on
        steps.append((text, [End(1, 0, False, away_s=float(number))]))
    changes, state = through([*steps, (on, in_both(26, 2.0))])
    check(changes, all_over=False)
    starts = [each.episode for each in changes if each.step == "start"]
    assert len(starts) == len(set(starts)) == 5
    assert state.ended == {}


def test_rules_that_are_gone_leave_nothing_in_the_state() -> None:
    after = LOST + '[events.rules.next]\nwhen = "inside"\narea = "left"\nafter.rule = "gone"\n'
    _, empty = through([(TWO, in_both(0, 1.0))])
    steps: list[Step] = []
    for number in range(20):
        text = AREAS + after.replace('state = "lost"', f'state = "lost"\nuntil_s = {number}')
        steps.append((text, [End(1, 0, False, away_s=number + 1.0), *in_both(number * 5, 0.2)]))
    _, state = through([(AREAS + after, in_both(0, 1.0)), *steps, (TWO, in_both(200, 1.0))])
    assert state.begun_ms == {}
    assert state.notes.keys() <= empty.notes.keys()
    assert len(msgspec.msgpack.encode(state)) < 2 * len(msgspec.msgpack.encode(empty))


PROFILES = f"""{TWO}
[events]
timezone = "UTC"
[events.profiles.night]
rules = ["here"]
schedule = ["22:00-06:00"]
[events.profiles.home]
rules = []
[events.profiles.away]
rules = ["here", "there"]
[events.rules.always]
when = "inside"
area = "right"
"""


@pytest.mark.parametrize(
    ("selected", "hour", "due"),
    [
        ("", 23, {"here", "always"}),
        ("", 12, {"always"}),
        ("away", 12, {"here", "there", "always"}),
        ("home", 23, {"always"}),
    ],
)
def test_a_profile_has_its_rules_and_those_of_no_profile(
    selected: str, hour: int, due: set[str]
) -> None:
    text = PROFILES
    if selected:
        text = text.replace("[events]\n", f'[events]\nprofile = "{selected}"\n')
    book = Rulebook(rules(text), "door")
    captured = 1_700_000_000 // 86400 * 86400 + hour * 3600.0
    assert {rule.name for rule in book.rules if book.is_due(rule, captured)} == due


def test_without_a_due_profile_all_rules_are_active() -> None:
    text = PROFILES.replace("[events.profiles.home]\nrules = []\n", "")
    text = text.replace('rules = ["here", "there"]', 'schedule = ["01:00-02:00"]')
    book = Rulebook(rules(text), "door")
    assert book.profile_at(1_700_000_000 // 86400 * 86400 + 12 * 3600.0) == ""
    assert all(book.is_due(rule, 43200.0) for rule in book.rules)


def test_a_profile_ends_an_episode_as_a_schedule_does() -> None:
    away = PROFILES.replace("[events]\n", '[events]\nprofile = "away"\n')
    home = PROFILES.replace("[events]\n", '[events]\nprofile = "home"\n')
    changes, _ = through([(away, in_both(0, 2.0)), (home, in_both(50, 2.0))])
    ends = {(each.rule, each.ended_by) for each in changes if each.step == "end"}
    assert ends == {("here", "over"), ("there", "over")}


def at(second: float) -> str:
    """Return a second of the results as a snooze has it."""
    return datetime.fromtimestamp(1_000_000 + second, UTC).isoformat()


QUIET = f"{at(3)}/{at(6)}"
SNOOZED = {
    "a rule": (TWO.replace('area = "left"', f'area = "left"\nsnoozed = "{QUIET}"', 1), {"here"}),
    "a source": (f'{TWO}\n[events]\nsnoozed_sources = {{ door = "{QUIET}" }}', {"here", "there"}),
    "another": (f'{TWO}\n[events]\nsnoozed_sources = {{ yard = "{QUIET}" }}', set[str]()),
    "all": (f'{TWO}\n[events]\nsnoozed = "{QUIET}"', {"here", "there"}),
}


@pytest.mark.parametrize("what", SNOOZED)
def test_a_snooze_ends_episodes_as_a_schedule_does_and_a_replay_finds_it(what: str) -> None:
    text, snoozed = SNOOZED[what]
    before = in_both(0, 2.0)
    after = [
        msgspec.structs.replace(each, captured=1_000_000 + each.pts) for each in in_both(50, 8)
    ]
    changes, state = through([(TWO, before), (text, after[:30]), (text, after[30:])])
    check(changes, all_over=False)
    replayed = told(rules(text), [*before, *after])
    assert changes == replayed.changes
    assert state == replayed.state
    ends = [each for each in changes if each.step == "end"]
    assert {(each.rule, each.ended_by) for each in ends} == {(rule, "over") for rule in snoozed}
    assert all(each.last.captured < 1_000_003 <= each.told.captured for each in ends)
    again = [each for each in changes if each.step == "start" and each.began.captured > 1_000_001]
    assert {each.rule for each in again} == snoozed
    assert all(each.began.captured >= 1_000_006 for each in again)
    config = rules(TWO)
    assert [rules(text).digest(name) for name in config.rules] == [
        config.digest(name) for name in config.rules
    ]


@pytest.mark.parametrize("kind", ["snooze", "schedule"])
def test_a_lost_camera_is_not_announced_while_its_rule_is_not_active(kind: str) -> None:
    """The rule stops to be active between two repeated ends, and is active again later."""
    text = f'{LOST}until_s = 0\nsnoozed = "{at(10)}/{at(30)}"\n'
    if kind == "schedule":  # the results begin at 13:46:40
        text = f'{LOST}until_s = 0\nschedule = ["13:00-13:47"]\n[events]\ntimezone = "UTC"\n'
    away = [End(1, 25, False, away_s=float(second)) for second in range(2, 29, 2)]
    changes, state = through([(text, [*in_both(0, 1.0), End(1, 25, False), *away])])
    check(changes)
    assert [each.step for each in changes] == ["start", "end"]
    if kind == "snooze":
        again = [End(1, 25, False, away_s=float(second)) for second in (32, 34)]
        begun = told(rules(text), again, state).changes
        assert [each.step for each in begun] == ["start"]
        assert begun[0].began.captured >= 1_000_030


def test_a_snooze_ends_an_episode_while_nothing_is_known() -> None:
    text, _ = SNOOZED["a rule"]
    failed = [
        msgspec.structs.replace(each, outcome="failed", captured=1_000_000 + each.pts)
        for each in in_both(50, 3)
        if each.pts is not None
    ]
    changes, _ = through([(text, [*in_both(0, 2.0), *failed])])
    [end] = [each for each in changes if each.step == "end"]
    assert (end.rule, end.ended_by) == ("here", "over")


@pytest.mark.parametrize("value", ["30m", at(1), f"{at(1)}/{at(1)}", "2026-01-01T00:00/2026-01-02"])
def test_a_wrong_snooze_is_refused(value: str) -> None:
    wrong = TWO.replace('area = "left"', f'area = "left"\nsnoozed = "{value}"', 1)
    wrong += f'[events]\nsnoozed = "{value}"\nsnoozed_sources = {{ door = "{value}" }}'
    with pytest.raises(ConfigFaults) as caught:
        read_config("pipeline.toml", wrong)
    text = str(caught.value)
    for key in ("events.rules.here.snoozed", "events.snoozed", "events.snoozed_sources"):
        assert f"{key} = " in text


def test_wrong_profiles_are_refused() -> None:
    wrong = PROFILES.replace('rules = ["here"]', 'rules = ["her"]').replace("22:00-06", "22-06")
    wrong = wrong.replace("[events]\n", '[events]\nprofile = "holiday"\n')
    with pytest.raises(ConfigFaults) as caught:
        read_config("pipeline.toml", wrong)
    text = str(caught.value)
    assert "events.profiles.night.rules: 'her': there is no such rule" in text
    assert "did you mean here" in text
    assert "events.profiles.night.schedule: '22-06:00'" in text
    assert "events.profile = 'holiday': there is no [events.profiles.holiday]" in text
