"""The filters of a run: what the run refuses, and what it warns about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.events import rules_to_mute
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.likeness import NAMES, Likeness
from framegate.pipeline.contracts.object_filters import NamedFilter, ObjectFilter
from framegate.pipeline.run.filters import idle_filters, stored_filters, with_filter
from framegate.pipeline.run.folder import RunFile, RunSource, open_folder

RUN = RunFile("a run", "", (RunSource(name="door", url="door.mp4"),))
RULES = {"visitor": "11112222"}
NO_WEIGHTS = (0.0,) * 10


def muting(name: str, rule: str = "visitor", **more: Any) -> NamedFilter:
    return NamedFilter(name=name, sources=("door",), rule=rule, weights=NO_WEIGHTS, **more)


def test_a_filter_for_another_version_of_its_rule_is_refused() -> None:
    with pytest.raises(ConfigFaults, match="rule_version = '00000000': it was learned for another"):
        with_filter(RUN, {}, muting("old", rule_version="00000000"), rules=RULES)
    for version in ("", "11112222"):
        new = muting("new", rule_version=version)
        assert with_filter(RUN, {}, new, rules=RULES).filters == (new,)


def test_a_filter_replaces_another_in_one_step_or_not_at_all() -> None:
    run = with_filter(RUN, {}, muting("", rule_version="11112222"), rules=RULES)
    better = muting("better", rule_version="11112222")
    assert with_filter(run, {}, better, rules=RULES, replaces="muted_1").filters == (better,)
    with pytest.raises(ConfigFaults, match="the run has no filter of that name"):
        with_filter(run, {}, better, rules=RULES, replaces="other")


def test_the_filters_of_a_data_folder_are_the_configured_and_the_added_ones(
    tmp_path: Path,
) -> None:
    configured = {"street": ObjectFilter(labels=("person",))}
    assert stored_filters(None, configured) == configured
    assert stored_filters(tmp_path, configured) == configured, "no run wrote the folder"
    added = muting("m", by="verdict")
    folder = open_folder(tmp_path / "data", resume=False)
    folder.write(with_filter(RUN, configured, added))
    folder.close(keep=True)
    assert stored_filters(tmp_path / "data", configured) == {**configured, "m": added.plain()}


def test_filters_that_mute_nothing_get_a_warning() -> None:
    idle = [muting("old", rule_version="00000000"), muting("gone", rule="guest")]
    [old, gone] = idle_filters([*idle, muting("m", rule_version="11112222")], RULES)
    assert "filter old: " in old
    assert "framegate filters learn visitor --source door" in old
    assert gone.startswith("filter gone: 'guest' is no rule of this run")


def test_a_filter_for_a_rule_without_traits_is_refused() -> None:
    likeness = Likeness((0.0,) * len(NAMES), 0.0, (5, 0)).text()
    text = f"""
    [events.areas.all]
    points = [[0, 0], [1, 0], [1, 1]]
    [events.rules.visitor]
    when = "inside"
    area = "all"
    [events.rules.such]
    when = "like"
    like = "{likeness}"
    """
    rules = rules_to_mute(read_config("test.toml", text).events)
    assert list(rules) == ["visitor"]
    with pytest.raises(ConfigFaults, match="'such' is no rule of this run"):
        with_filter(RUN, {}, muting("m", rule="such"), rules=rules)
