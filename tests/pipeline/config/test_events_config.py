"""`[events]`: what it may say, and that whatever is wrong is told before a run starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from framegate.pipeline.config.config import Config, read_config
from framegate.pipeline.config.graph import place, stage_specs
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.run.plan import with_events, with_sound, with_visits
from framegate.stages.escalate.configured_models import ConfiguredModels

GOOD = """
[events.areas]
porch = { source = "door", points = [[0.1, 0.5], [0.6, 0.5], [0.6, 0.9], [0.1, 0.9]] }
floor = { points = [[0, 0], [1, 0], [1, 1], [0, 1]], metres = [[0, 0], [4, 0], [4, 6], [0, 6]] }
[events.lines]
gate = { source = "door", points = [[0.2, 0.6], [0.8, 0.62]] }
[events.rules.visitor]
when = "inside"
area = "porch"
labels = ["person"]
for_s = 1.0
severity = "alert"
clip = { before_s = 8 }
[events.rules.people]
when = "crosses"
line = "gate"
after = { rule = "visitor", within_s = 5 }
[events.rules.empty]
when = "count"
area = "floor"
at_most = 0
schedule = ["mon-fri 07:30-18:00"]
"""


def test_what_a_table_says() -> None:
    events = read_config("pipeline.toml", GOOD).events
    assert list(events.rules) == ["visitor", "people", "empty"]
    visitor = events.rules["visitor"]
    assert (visitor.for_s, visitor.severity, visitor.min_sightings) == (1.0, "alert", 2)
    assert visitor.clip not in (True, False)
    assert list(events.of_source("door")) == ["visitor", "people", "empty"]
    assert list(events.of_source("yard")) == ["empty"]


def test_a_rule_has_another_version_once_it_or_its_place_is_another() -> None:
    before = read_config("pipeline.toml", GOOD).events
    moved = read_config("pipeline.toml", GOOD.replace("[0.8, 0.62]", "[0.8, 0.63]")).events
    longer = read_config("pipeline.toml", GOOD.replace("for_s = 1.0", "for_s = 2")).events
    same = read_config("pipeline.toml", GOOD.replace("for_s = 1.0", "for_s = 1")).events
    for name in before.rules:
        assert before.digest(name) == same.digest(name)
    assert before.digest("people") != moved.digest("people")
    assert before.digest("visitor") == moved.digest("visitor")
    assert before.digest("people") != longer.digest("people"), "it comes after that one"
    assert before.digest("empty") == longer.digest("empty")


def models_of(config: Config, folder: Path) -> ConfiguredModels:
    return ConfiguredModels(config.stages, folder)


def test_the_stages_are_there_with_rules_and_with_visits_only(tmp_path: Path) -> None:
    without_windows = '[stages.cache]\ninput = "escalate"\n'
    without = read_config("pipeline.toml", without_windows)
    ours = with_events(without, models_of(without, tmp_path))
    assert [stage.name for stage in ours.stages][-2:] == ["cache", "events"]
    assert with_visits(without) is without
    visits = with_visits(read_config("pipeline.toml", ""))
    assert [stage.name for stage in visits.stages][-2:] == ["cache", "visits"]
    own = read_config(
        "pipeline.toml", '[stages.events]\nuse = "framegate.stages.windows:Windows"\n'
    )
    assert with_events(own, models_of(own, tmp_path)) is own
    good = read_config("pipeline.toml", GOOD)
    config = with_events(good, models_of(good, tmp_path))
    events = config.stages[-1]
    assert (events.name, events.input, events.on_lag) == ("events", "cache", "wait")
    specs = stage_specs(config.stages)
    assert specs[-1].reliable
    assert place(specs, config.placement)["shard"][-2:] == ["cache", "events"]


def test_labels_that_no_result_can_have_are_told(tmp_path: Path) -> None:
    wrong = GOOD.replace('labels = ["person"]', 'labels = ["persn", "suitcase"]')
    config = read_config("pipeline.toml", wrong)
    with pytest.raises(ConfigFaults) as refused:
        with_events(config, models_of(config, tmp_path))
    person, suitcase = refused.value.faults
    assert "'persn' is not detected" in person
    assert "did you mean person?" in person
    assert "add it to [stages.detect] classes" in suitcase
    looked_for = '[stages.detect]\nclasses = ["person", "suitcase"]\n'
    right = GOOD.replace('labels = ["person"]', 'labels = ["person", "suitcase"]')
    config = read_config("pipeline.toml", looked_for + right)
    assert with_events(config, models_of(config, tmp_path))


HEARD = """
[events.rules.glass]
when = "state"
state = "heard"
source = "door"
labels = ["Glass"]
"""


def test_rules_about_sounds_have_them_heard_on_the_way_to_the_results(tmp_path: Path) -> None:
    listening = read_config("pipeline.toml", HEARD + '[sound]\nsources = ["door"]\n')
    models = models_of(listening, tmp_path)
    config = with_events(with_sound(listening, models), models)
    inputs = {stage.name: stage.input for stage in config.stages}
    assert (inputs["cache"], inputs["windows"], inputs["listen"]) == (
        "windows", "listen", "escalate",
    )  # fmt: skip
    assert (inputs["sound"], inputs["events"]) == ("listen", "cache")
    specs = stage_specs(config.stages)
    placed = place(specs, config.placement)
    assert placed["shard"][2:] == [
        "escalate", "listen", "windows", "sound", "cache", "events",
    ]  # fmt: skip
    assert [spec.name for spec in specs if spec.main][-3:] == ["listen", "windows", "cache"]
    without = with_sound(read_config("pipeline.toml", "[sound]\nsources = true\n"), models)
    assert (without.stages[-1].name, without.stages[-1].input) == ("sound", "decode")


@pytest.mark.parametrize(
    ("sound", "fault"),
    [
        (
            "",
            "events.rules.glass.state = 'heard': no sound is on; set sources = true under [sound]",
        ),
        ('[sound]\nsources = ["yard"]\n', "source = 'door': its sound is not recognised"),
        ('[sound]\nsources = true\nlabels = ["Speech"]\n', "labels: 'Glass' is not reported"),
    ],
)
def test_sounds_that_nobody_tells_are_refused(sound: str, fault: str, tmp_path: Path) -> None:
    config = read_config("pipeline.toml", HEARD + sound)
    models = models_of(config, tmp_path)
    with pytest.raises(ConfigFaults, match=re.escape(fault)):
        with_events(with_sound(config, models), models)
    with pytest.raises(ConfigFaults, match=r"glass\.labels: missing; name sounds"):
        read_config("pipeline.toml", HEARD.replace('labels = ["Glass"]\n', ""))
    with pytest.raises(ConfigFaults, match="these are for sounds"):
        read_config("pipeline.toml", HEARD.replace('state = "heard"', 'state = "lost"'))


FAULTS = [
    ("area = \"porch\"", "area = \"proch\"", "area = 'proch': there is no [events.areas.proch]; "
     "known are floor, porch; did you mean porch?"),
    ("line = \"gate\"", "", "people.line: missing; when = 'crosses' needs one of gate"),
    ("when = \"inside\"", "when = \"insde\"", "did you mean inside?"),
    ("for_s = 1.0", "fors_s = 1.0", "events.rules.visitor.fors_s: unknown key"),
    ("for_s = 1.0", "for_s = -1", "for_s = -1: must be a number, 0 to 86400"),
    ("for_s = 1.0", "at_most = 3", "visitor.at_most: it is a key of when = 'count'"),
    ("for_s = 1.0", "faster_m_s = 3", "[events.areas.porch] has no metres"),
    ("for_s = 1.0", "at = [0.5, 7]", "visitor.at = [0.5, 7]: must be 0 to 1 of the width"),
    ("for_s = 1.0", "source = \"yard\"", "its area or line belongs to source 'door'"),
    ("at_most = 0", "", "empty: missing at_least or at_most"),
    ("at_most = 0", "at_least = 0", "always true; must be 1"),
    ("at_most = 0", "at_most = 1\nat_least = 2", "above at_most"),
    ("[0.8, 0.62]", "[800, 620]", "for pixels set pixels = true"),
    ("[0.8, 0.62]", "[0.2, 0.6]", "two consecutive points are equal"),
    ("[0.8, 0.62]", "[0.8, 0.62, 1]", "must be a list of points [x, y]"),
    ("[0.6, 0.9], [0.1, 0.9]", "[0.1, 0.9], [0.6, 0.9]", "two edges of the area cross"),
    ("[0.6, 0.9], [0.1, 0.9]", "[0.2, 0.5]", "its corners are on one line"),
    ("[0.6, 0.5], [0.6, 0.9], ", "", "must be 3 or more points, got 2"),
    ("[4, 6], [0, 6]]", "[4, 6]]", "3 positions for 4 corners"),
    ("[4, 6], [0, 6]]", "[2, 0], [0, 6]]", "three of the four corners are on one line"),
    ("rule = \"visitor\"", "rule = \"visitors\"", "did you mean visitor?"),
    ("rule = \"visitor\"", "rule = \"people\"", "the rule comes after itself: people after people"),
    ("rule = \"visitor\", ", "", "events.rules.people.after.rule: missing"),
    ("mon-fri 07:30-18:00", "mon-fri 07:30", "must be like \"22:00-06:00\""),
    ("[events.rules.visitor]", "[events.rules.Visitor]", "events.rules.Visitor: a name is a lower"),
    ("[events.rules.visitor]", "[events.rule.visitor]", "events.rule: unknown key"),
    ("[events.areas]", "[events]\ntimezone = \"Europe/Berlim\"\n[events.areas]",
     "did you mean Europe/Berlin?"),
    ("[events.areas]", "[stages.events]\nuse = \"x:Y\"\n[events.areas]", "stages.events"),
]  # fmt: skip


def test_a_crossing_without_any_line_says_what_to_write() -> None:
    text = '[sources.door]\nurl = "a.mp4"\n[events.rules.people]\nwhen = "crosses"\n'
    needs = "people.line: missing; when = 'crosses' needs a table [events.lines.NAME], and there"
    with pytest.raises(ConfigFaults, match=re.escape(needs)):
        read_config("pipeline.toml", text)


def test_a_rule_without_an_area_is_about_the_whole_picture() -> None:
    text = "[events.rules.people]\nwhen = 'inside'\n"
    text += "[events.rules.empty]\nwhen = 'count'\nat_most = 0\n"
    events = read_config("pipeline.toml", text).events
    assert events is not None
    assert {rule.area for rule in events.rules.values()} == {""}
    assert set(events.of_source("any")) == {"people", "empty"}


@pytest.mark.parametrize(("said", "instead", "fault"), FAULTS)
def test_what_is_wrong_is_told(said: str, instead: str, fault: str) -> None:
    assert said in GOOD
    with pytest.raises(ConfigFaults, match=re.escape(fault)):
        read_config("pipeline.toml", GOOD.replace(said, instead, 1))


def test_all_faults_are_told_at_once() -> None:
    wrong = GOOD.replace("[0.8, 0.62]", "[8, 0.62]").replace("for_s", "fors")
    with pytest.raises(ConfigFaults) as refused:
        read_config("pipeline.toml", wrong)
    assert len(refused.value.faults) == 1, "what is unreadable first"
    wrong = GOOD.replace("[0.8, 0.62]", "[8, 0.62]").replace('area = "floor"', 'area = "flor"')
    with pytest.raises(ConfigFaults) as refused:
        read_config("pipeline.toml", wrong)
    assert len(refused.value.faults) == 2
