"""Much moved and little was found: by which counters, and what is advised then."""

from __future__ import annotations

import itertools

import pytest

from framegate.models.detector import policy
from framegate.pipeline.telemetry.little_found import PAIRS, Findings, advice_of, findings_of

# 100 frames: 40 show a change, 30 of which are looked at, 27 of these without an object.
ROAD = {
    "looked:whole:first": 1,
    "looked:no:unchanged": 57,
    "looked:no:waiting": 10,
    "looked:part:changed": 18,
    "looked:whole:changed": 2,
    "looked:whole:too_much": 10,
    "looked:part:age": 2,
    "empty_looks": 27,
    "objects:car": 1,
    "labels": 1,
    "decoded": 100,
}
LIGHT = ("nanodet-plus-416-int8@0123abcd",)
SMALL, FULL_HD = (768, 432), (1920, 1080)


def test_what_changed_and_what_was_found() -> None:
    assert findings_of(ROAD) == Findings(frames=100, changed=40, looks=30, empty=27, objects=1)
    assert findings_of({}) == Findings(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "counters",
    [
        {"empty_looks": 24},  # 80 % of 30
        {"looked:no:unchanged": 257},  # changes in 40 of 300 frames
        {"objects:car": 900, "objects:person": 5},  # each was seen for a moment
    ],
)
def test_much_moved_and_little_was_found(counters: dict[str, int]) -> None:
    assert advice_of(ROAD | counters, LIGHT, SMALL) is not None


@pytest.mark.parametrize(
    "counters",
    [
        {"empty_looks": 23},
        {"looked:no:unchanged": 458},  # changes in 40 of 501 frames
        {"looked:part:changed": 7, "empty_looks": 19},  # 19 looks
    ],
)
def test_little_moved_or_enough_was_found(counters: dict[str, int]) -> None:
    assert advice_of(ROAD | counters, LIGHT, SMALL) is None


def test_a_gate_that_is_off_and_a_camera_that_moves_say_nothing_about_changes() -> None:
    assert advice_of({"looked:whole:every_frame": 500}, LIGHT, SMALL) is None
    moving = {"looked:whole:moving": 300, "looked:no:moving": 200}
    assert advice_of(moving, LIGHT, SMALL) is None
    assert advice_of({}, (), (0, 0)) is None


def test_the_advice_names_shares_objects_and_detectors_with_their_cost() -> None:
    assert advice_of(ROAD, LIGHT, SMALL) == (
        "changes in 40% of 100 frames, but 90% of the looks at them found nothing (1 object in "
        "total); try --detector surveillance (people and vehicles, 0.9 times the CPU time of the "
        "default), --detector nanodet-plus-640 (all classes, 2.1 times), or --classes all if "
        "other things move: docs/models.md"
    )


@pytest.mark.parametrize(
    ("models", "size", "advised"),
    [
        (LIGHT, SMALL, ["surveillance", "nanodet-plus-640"]),
        (LIGHT, FULL_HD, ["surveillance-large", "nanodet-plus-640"]),
        (("yard-int8@0123abcd",), SMALL, ["surveillance", "light"]),
        (("surveillance-448-int8@01",), SMALL, ["surveillance-large", "light"]),
        (("surveillance-large-864-int8@01",), SMALL, ["light"]),
        (("nanodet-plus-640-int8@01",), FULL_HD, ["surveillance-large"]),
    ],
)
def test_a_larger_input_for_a_large_picture_or_after_the_smaller_one(
    models: tuple[str, ...], size: tuple[int, int], advised: list[str]
) -> None:
    advice = advice_of(ROAD, models, size)
    assert advice is not None
    assert [words.split()[0] for words in advice.split("--detector ")[1:]] == advised


def test_every_detector_that_is_advised_is_shipped_with_the_network_that_results_name() -> None:
    for alternative in itertools.chain(*PAIRS.values()):
        assert policy.load(alternative.name).members == (alternative.network,)
