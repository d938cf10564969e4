"""Which detector a source gets, by labels and by the time that the machine has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks import found_by_labels
from benchmarks.all import kept
from framegate.models.detector import policy
from framegate.pipeline.telemetry import detector_choice
from framegate.pipeline.telemetry.detector_choice import (
    COSTS,
    DEFAULT,
    FOUND,
    Demand,
    GroupGain,
    LabelledRun,
    better_than,
    choose,
    detector_of,
    gains_of,
    groups_of,
    labelled_runs,
    larger_inputs,
    line_of,
)

PEOPLE = ("person",)


def run(detector: str, recall: float, side: int = 1920, **more: float | str) -> LabelledRun:
    """Return a run that found this share of 100 people, all of them right."""
    facts: dict[str, object] = {"clip": "square", "group": "person", "precision": 1.0}
    facts |= {"labels": 100, **more}
    return LabelledRun(side=side, detector=detector, recall=recall, **facts)  # type: ignore[arg-type]


# In large pictures, each larger input finds more; in pictures of 640 pixels, one does.
RUNS = (
    run("light", 0.3),
    run("nanodet-plus-640", 0.45),
    run("nanodet-plus-960", 0.6),
    run("nanodet-plus-1280", 0.61),
    run("light", 0.5, side=768),
    run("nanodet-plus-640", 0.6, side=768),
)
MS = {"light": 15.0, "nanodet-plus-640": 30.0, "nanodet-plus-960": 60.0, "nanodet-plus-1280": 100.0}


def demand(name: str, looks_per_s: float, size: tuple[int, int] = (1920, 1080)) -> Demand:
    return Demand(name, *size, looks_per_s, MS)


def chosen(demands: Sequence[Demand], room_ms: float) -> dict[str, str]:
    choices = choose(demands, PEOPLE, room_ms, RUNS)
    return {name: choice.detector for name, choice in choices.items()}


def test_a_larger_input_where_the_machine_has_the_time_for_it() -> None:
    # 10 looks a second cost 150 ms with light, 300 at 640 and 600 at 960.
    assert chosen([demand("a", 10)], 299) == {"a": "light"}
    assert chosen([demand("a", 10)], 300) == {"a": "nanodet-plus-640"}
    assert chosen([demand("a", 10)], 599) == {"a": "nanodet-plus-640"}
    assert chosen([demand("a", 10)], 600) == {"a": "nanodet-plus-960"}


def test_an_input_that_finds_no_more_is_not_chosen() -> None:
    assert chosen([demand("a", 1)], 1e6) == {"a": "nanodet-plus-960"}  # .61 is no more than .6
    assert chosen([demand("a", 1, (640, 360))], 1e6) == {"a": "nanodet-plus-640"}
    assert chosen([demand("a", 1, (480, 639))], 1e6) == {"a": "light"}
    assert choose([demand("a", 1)], ("vehicle",), 1e6, RUNS)["a"].detector == "light"


def test_a_candidate_that_was_not_measured_is_none() -> None:
    two = Demand("a", 1920, 1080, 1.0, {"light": 15.0, "nanodet-plus-960": 60.0})
    choice = choose([two], PEOPLE, 59, RUNS)["a"]
    assert (choice.detector, str(choice.next)[:16]) == ("light", "nanodet-plus-960")
    assert chosen([two], 60) == {"a": "nanodet-plus-960"}


def test_each_source_gets_a_step_before_one_gets_the_next() -> None:
    two = [demand("a", 10), demand("b", 10)]
    assert chosen(two, 600) == {"a": "nanodet-plus-640", "b": "nanodet-plus-640"}
    assert chosen(two, 900) == {"a": "nanodet-plus-960", "b": "nanodet-plus-640"}
    small = [demand("a", 10), demand("quiet", 30, (320, 240))]
    assert chosen(small, 749) == {"a": "light", "quiet": "light"}  # 600 ms without a choice
    assert chosen([], 1000) == {}


def test_a_choice_has_its_reason_and_what_would_find_more() -> None:
    choice = choose([demand("a", 10)], PEOPLE, 300, RUNS)["a"]
    assert str(choice.reason) == "nanodet-plus-640 finds 1.5 times as many people"
    assert str(choice.next) == "nanodet-plus-960 finds 1.3 times as many people"
    choice = choose([demand("a", 10)], PEOPLE, 600, RUNS)["a"]
    assert str(choice.reason) == "nanodet-plus-960 finds 2.0 times as many people"
    assert choice.next is None
    choice = choose([demand("a", 10)], PEOPLE, 0, RUNS)["a"]
    assert choice.reason is None


def test_gains_are_of_all_clips_of_about_this_size_together() -> None:
    runs = (
        run("light", 0.2, clip="first"),
        run("light", 0.8, clip="second", labels=300),
        run("light", 1.0, clip="only here"),
        run("surveillance", 0.4, clip="first"),
        run("surveillance", 0.9, clip="second", labels=300),
    )
    # 20 and 240 people before, 40 and 270 now.
    assert gains_of("surveillance", "light", 1280, PEOPLE, runs) == ()  # no large picture
    (gain,) = gains_of("surveillance", "light", 1281, PEOPLE, runs)
    assert gain == GroupGain("person", 310 / 260, ("first", "second"))


def test_a_detector_that_is_worse_in_one_clip_finds_no_more() -> None:
    both = (run("light", 0.2), run("surveillance", 0.9), run("light", 0.5, clip="yard"))
    worse = run("surveillance", 0.45, clip="yard")
    assert gains_of("surveillance", "light", 1920, PEOPLE, (*both, worse)) == ()
    few = run("surveillance", 0.45, clip="yard", labels=19)
    assert len(gains_of("surveillance", "light", 1920, PEOPLE, (*both, few))) == 1


def test_more_false_objects_than_right_ones_are_no_gain() -> None:
    runs = (run("light", 0.5), run("surveillance", 0.6, precision=0.3))
    assert gains_of("surveillance", "light", 1920, PEOPLE, runs) == ()
    few = (run("light", 0.5, labels=19), run("surveillance", 1.0, labels=19))
    assert gains_of("surveillance", "light", 1920, PEOPLE, few) == ()
    # A gain with people is none if vehicles are lost that are wanted, too.
    lost = (run("light", 0.9, group="vehicle"), run("surveillance", 0.1, group="vehicle"))
    both = (run("light", 0.5), run("surveillance", 0.9), *lost)
    assert gains_of("surveillance", "light", 1920, ("person", "vehicle"), both) == ()
    assert better_than("light", ["surveillance"], 1920, PEOPLE, both) is not None


@pytest.mark.parametrize(
    ("models", "detector"),
    [
        (["nanodet-plus-416-int8+bf16@0123abcd"], "light"),
        (["nanodet-plus-640-f16+gpu@0123abcd"], "nanodet-plus-640"),
        (["surveillance-large-864-int8@0123abcd"], "surveillance-large"),
        (["yard-int8@0123abcd"], None),
        (["nanodet-plus-96-int8@0123abcd"], None),
        (["nanodet-plus-416-int8@01", "nanodet-plus-640-int8@23"], None),
        ([], None),
    ],
)
def test_the_detector_by_the_networks_of_a_result(models: list[str], detector: str | None) -> None:
    assert detector_of(models) == detector


def test_every_detector_is_shipped_and_named_as_results_name_its_network() -> None:
    for name in COSTS:
        (member,) = policy.load(name).members
        assert detector_of([f"{member}-int8@0123abcd"]) == name
    for side in (640, 1920):
        costs = [COSTS[name] for name in (DEFAULT, *larger_inputs(side))]
        assert costs == sorted(costs)
    assert larger_inputs(1920, "nanodet-plus-960") == ("nanodet-plus-1280",)


def test_the_groups_of_labels() -> None:
    assert groups_of(["truck", "person", "dog"]) == ("person", "vehicle")
    assert groups_of(None) == ("person", "vehicle", "cycle")


def test_the_line_of_a_source_names_what_is_in_use() -> None:
    assert line_of([], 0, 0) is None
    assert line_of(["yard-int8@01"], 1920, 1080) == "1920x1080, yard-int8@01"
    small = line_of(["nanodet-plus-416-int8@01"], 320, 240)
    assert small == "320x240, nanodet-plus-416-int8@01"
    large = line_of(["nanodet-plus-416-int8@01"], 1920, 1080)
    assert large is not None
    assert large.startswith("1920x1080, nanodet-plus-416-int8@01; nanodet-plus-640 finds ")
    assert large.endswith(' times the CPU time a look; detector = "nanodet-plus-640"')


def test_the_kept_figures_are_those_of_the_benchmark() -> None:
    assert {run.detector for run in labelled_runs()} <= set(COSTS)
    assert all(run.group in detector_choice.GROUPS for run in labelled_runs())
    truth = kept("truth")
    if truth is not None:
        assert FOUND.read_text(encoding="utf-8") == found_by_labels.text(truth)
