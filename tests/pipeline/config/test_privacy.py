"""`[privacy]`: which masks are taken, and that nothing records what they hide."""

from __future__ import annotations

import re

import pytest

from framegate.pipeline.config.by_source import PrivacyConfig
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.run.source_forms import run_source, source_spec

MASKS = "[privacy.masks]\ngate = [[[0, 0], [0.5, 0], [0.5, 1]]]\n"


def test_a_source_is_told_of_its_masks_and_others_of_none() -> None:
    config = read_config(
        "t", MASKS + "[sources.gate]\nurl = 'rtsp://a/1'\n[sources.yard]\nurl = 'rtsp://a/2'\n"
    )
    masks = {
        name: source_spec(config, None, run_source(name, source, "config")).masks
        for name, source in config.sources.items()
    }
    assert masks == {"gate": (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0)),), "yard": ()}
    assert read_config("t", "").privacy == PrivacyConfig()


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ("gate = [[[0, 0], [640, 0], [640, 48]]]", "gate: must be a list of polygons, each of "),
        ("gate = [[[0, 0], [0.5, -0.1], [0.5, 1]]]", "0 to 1 of the picture's width and height"),
        ("gate = [[[0, 0], [nan, 0], [0.5, 1]]]", "0 to 1 of the picture's width and height"),
        ("gate = [[[0, 0], [0.5, 0]]]", "three or more points [x, y]"),
        ("gate = [[0, 0], [0.5, 0], [0.5, 1]]", "gate: must be a list of polygons"),
        ("gate = [[[0, 0, 0], [0.5, 0], [0.5, 1]]]", "gate: must be a list of polygons"),
        ("gate = [[[false, true], [0.5, 0], [0.5, 1]]]", "gate: must be a list of polygons"),
        ("gate = []", "gate: must be a list of polygons"),
        (
            "gate = [[[0, 0], [0.5, 0], [0, 1], [0.5, 1]]]",
            "gate: polygon 1: two edges cross, so a part would stay visible; give the corners in",
        ),
        ("gate = [[[0, 0], [0.5, 0.5], [1, 1]]]", "gate: polygon 1: it is empty, because its"),
        ("gate = [[[0, 0], [0.5, 0], [0.5, 0]]]", "gate: polygon 1: it is empty, because its"),
        ("gate = true", "gate: must be a list of polygons"),
        ("'Gate 1' = [[[0, 0], [0.5, 0], [0.5, 1]]]", "'Gate 1': not the name of a source"),
    ],
)
def test_what_is_wrong_with_a_mask_is_told_before_the_start(told: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=re.escape(fault)) as wrong:
        read_config("t", f"[privacy.masks]\n{told}\n")
    assert len(wrong.value.faults) == 1
    assert wrong.value.faults[0].startswith("t: privacy.masks = ")


def test_a_mask_may_name_a_corner_twice() -> None:
    closed = [[0, 0], [0.5, 0], [0.5, 0], [0.5, 1], [0, 0]]
    assert len(read_config("t", f"[privacy.masks]\ngate = [{closed}]\n").privacy.of("gate")) == 1


def test_a_key_that_there_is_not_is_told() -> None:
    with pytest.raises(ConfigFaults, match="did you mean masks"):
        read_config("t", "[privacy]\nmask = 1\n")


@pytest.mark.parametrize(
    ("sources", "instead"),
    [
        ("true", "hides of gate; list the cameras to record, without these"),
        ("['yard', 'gate']", "hides of gate; remove these"),
    ],
)
def test_what_is_masked_is_not_recorded(sources: str, instead: str) -> None:
    with pytest.raises(ConfigFaults, match=re.escape(instead)) as wrong:
        read_config("t", f"{MASKS}[record]\nsources = {sources}\n")
    assert wrong.value.faults[0].startswith("t: record.sources: a recording would show the areas ")


@pytest.mark.parametrize("sources", ["false", "['yard']", "[]"])
def test_others_are_recorded_beside_it(sources: str) -> None:
    config = read_config("t", f"{MASKS}[record]\nsources = {sources}\n")
    assert config.record.of("gate", live=True) is None
