"""What `check` says of the detector in use, and how much time looks may take."""

from __future__ import annotations

import re

import pytest

from framegate.cli.setup.detectors import detector_lines, room_ms
from framegate.pipeline.config.config import DEFAULTS, read_config
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.options import ModelUse

FULL_HD = Form(1920, 1080)
MOMENT_S = 0.01


def test_what_is_in_use_and_what_finds_more_at_which_cost() -> None:
    in_use, more = detector_lines(ModelUse(), FULL_HD, MOMENT_S)
    assert in_use == "light in use"
    words = r"at 1920x1080, nanodet-plus-640 finds [1-9]\.\d times as many people.*, costs -?\d+ ms"
    assert re.match(words, more)
    assert more.endswith(' more a look; detector = "nanodet-plus-640"')


@pytest.mark.parametrize(
    ("use", "form"),
    [
        (ModelUse("yard"), FULL_HD),
        (ModelUse("nanodet-plus-1280"), FULL_HD),
        (ModelUse("light"), Form(320, 240)),
        (ModelUse("light", ("dog",)), FULL_HD),
    ],
)
def test_where_nothing_finds_more(use: ModelUse, form: Form) -> None:
    assert detector_lines(use, form, MOMENT_S) == [f"{use.model} in use"]


def test_surveillance_is_advised_where_its_classes_are_all_that_is_wanted() -> None:
    *_, advice = detector_lines(ModelUse("light", ("person", "car")), FULL_HD, MOMENT_S)
    assert advice.startswith("at 1920x1080, surveillance-large finds ")
    assert advice.endswith(
        "compare on your own footage: framegate run FILE --detector surveillance-large "
        "--save videos"
    )
    lines = detector_lines(ModelUse("light", ("person", "dog")), FULL_HD, MOMENT_S)
    assert not any("surveillance" in line for line in lines)


@pytest.mark.parametrize(
    ("sources", "cores", "ms"),
    [
        (1, 1, 600.0),  # of one core, .8 may be used, and a quarter of that decodes
        (1, 2, 800.0),  # one worker looks on one core
        (5, 2, 1200.0),
        (5, 16, 1600.0),  # the fifth source starts a second worker
        (9, 16, 2400.0),
    ],
)
def test_the_time_for_looks(sources: int, cores: int, ms: float) -> None:
    config = read_config(DEFAULTS, "[workers]\nshards = 16\n")
    assert room_ms(config, sources, cores) == pytest.approx(ms)
