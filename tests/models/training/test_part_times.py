"""Times of parts: every convolution is of one part, and what was measured is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="students are torch modules")

from torch import nn  # noqa: E402

from framegate.models.training.blocks import Block  # noqa: E402
from framegate.models.training.part_times import measured, network_ms, parts  # noqa: E402
from framegate.models.training.student import (  # noqa: E402
    Architecture,
    StagePlan,
    Student,
)

SIZE = (64, 64)
TINY = replace(Architecture().times(0.25), n_classes=2)
MIXED = replace(
    TINY,
    stem=Block("patch", 4),
    stages=(
        StagePlan(16, (Block("rep"),)),
        StagePlan(16, (None, Block("large", 7))),
        *TINY.stages[2:],
    ),
    head=Block("inverted", 5),
)


def owners(architecture: Architecture, path: str) -> Iterator[str]:
    longest = sorted(parts(architecture, SIZE), key=lambda part: -len(part.path))
    yield from (p.path for p in longest if p.path and f"{path}.".startswith(f"{p.path}."))


@pytest.mark.parametrize("architecture", [TINY, MIXED])
def test_every_convolution_is_of_a_part(architecture: Architecture) -> None:
    network = Student(architecture)
    found = set()
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            found.add(next(owners(architecture, path)))
    assert found == {part.path for part in parts(architecture, SIZE)} - {""}


def test_what_decides_a_parts_time_is_in_its_key() -> None:
    wider = replace(TINY, stages=(StagePlan(16, TINY.stages[0].blocks), *TINY.stages[1:]))
    keys = [{part.key for part in parts(one, SIZE)} for one in (TINY, wider)]
    assert {key for key in keys[1] - keys[0] if key.startswith("entry")} == {
        "entry 16>16 /1 16x16",
        "entry 32>16 /2 8x8",
    }


def test_all_parts_get_a_time_and_are_found_again(tmp_path: Path) -> None:
    cache = tmp_path / "made" / "times.json"
    times = measured([TINY, MIXED], SIZE, "f32", rounds=2, cache=cache)
    keys = {part.key for one in (TINY, MIXED) for part in parts(one, SIZE)}
    assert times.ms.keys() == keys
    assert sum(times.ms.values()) > 0
    assert times.of(TINY) > 0
    (kept,) = json.loads(cache.read_text()).values()
    kept["fixed"] = 123.0
    name = next(iter(json.loads(cache.read_text())))
    cache.write_text(json.dumps({name: kept}))
    assert measured([TINY], SIZE, "f32", cache=cache).fixed == 123.0


def test_a_part_that_was_not_met_is_named() -> None:
    times = measured([TINY], SIZE, "f32", rounds=1)
    with pytest.raises(KeyError, match="large7 16 8x8"):
        times.of(replace(TINY, stages=(*TINY.stages[:1], MIXED.stages[1], *TINY.stages[2:])))


def test_a_file_that_makes_no_sense_is_measured_again(tmp_path: Path) -> None:
    cache = tmp_path / "times.json"
    cache.write_text("[1, 2")
    assert measured([TINY], SIZE, "f32", rounds=1, cache=cache).ms
    assert json.loads(cache.read_text())


def test_whole_networks_have_a_time_each() -> None:
    assert all(ms > 0 for ms in network_ms([TINY, MIXED], SIZE, "f32", rounds=2))
